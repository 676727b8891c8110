"""Keyed random streams: one per particle, independent of the batch."""

import torch

from tts_var.models.random_streams import KeyedStreams, LineageStreams


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_do_not_depend_on_the_batch() -> None:
    probabilities = torch.rand(6, 50, 3, generator=stream()).softmax(-1)
    together = KeyedStreams([4, 9]).classes(probabilities, scale=2)
    assert torch.equal(KeyedStreams([4]).classes(probabilities[:3], scale=2), together[:3])
    assert torch.equal(KeyedStreams([9]).classes(probabilities[3:5], scale=2), together[3:5])
    assert not torch.equal(KeyedStreams([4]).classes(probabilities[:3], scale=1), together[:3])
    assert torch.equal(LineageStreams([9], [[0, 0, 1]]).classes(probabilities[4:5], scale=2)[0], together[4])
