"""The small world as training data."""

import torch

from tts_var.toy.dataset import SmallWorld


def test_examples_depend_on_their_index_only() -> None:
    world = SmallWorld(100, seed=2)
    together, alone = world.examples([5, 9, 3]), world.examples([9])
    assert alone.prompts[0] == together.prompts[1]
    assert torch.equal(alone.images[0], together.images[1])
    assert not torch.equal(SmallWorld(100, seed=3).examples([9]).images, alone.images)
