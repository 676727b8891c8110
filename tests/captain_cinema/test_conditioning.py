"""Memory policies and memory frames: ranks, sizes, noise, token cost and refusals."""

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy, position_ids_by_rank, remembered_frames
from captain_cinema.models import CaptionEmbeddings, Frames, PixelSpace
from captain_cinema.numerics.memory import MemoryPlan
from triptych.errors import UserError


def past(pixels: torch.Tensor, captions: torch.Tensor, noise: torch.Tensor | None = None) -> Frames:
    batch, count = pixels.shape[:2]
    timesteps = torch.zeros(batch, count) if noise is None else noise
    return Frames(pixels, CaptionEmbeddings(captions), timesteps, position_ids_by_rank(batch, count))


def test_a_memory_follows_ranks_and_sizes() -> None:
    frames = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(2, 5, 3, 64, 64).contiguous()
    captions = torch.arange(5).view(1, 5, 1).expand(2, 5, 2)
    plan = MemoryPlan(((8, 8), (4, 4), (4, 4)), num_dropped=2)
    ranks = [[4, 0, 2, 1, 3], [1, 2, 3, 4, 0]]
    groups = remembered_frames(past(frames, captions), ranks, plan, PixelSpace(8))
    assert [tuple(group.latents.shape) for group in groups] == [(2, 1, 3, 64, 64), (2, 2, 3, 32, 32)]
    assert torch.cat([group.latents[:, :, 0, 0, 0] for group in groups], dim=1).tolist() == [[4, 0, 2], [1, 2, 3]]
    assert torch.cat([group.captions.tokens[:, :, 0] for group in groups], dim=1).tolist() == [[4, 0, 2], [1, 2, 3]]
    assert torch.cat([group.position_ids for group in groups], dim=1).tolist() == [[1, 2, 3]] * 2
    assert all(group.is_memory for group in groups)


def test_permuting_frames_and_ranks_together_changes_nothing() -> None:
    stream = torch.Generator().manual_seed(0)
    frames, captions = torch.randn(1, 6, 3, 64, 64, generator=stream), torch.arange(6).view(1, 6, 1)
    order = [3, 5, 0, 1, 4, 2]
    moved = torch.randperm(6, generator=stream)
    new_index = {int(old): new for new, old in enumerate(moved)}
    plan = MemoryPolicy().plan(6, short_side=8)
    one = remembered_frames(past(frames, captions), [order], plan, PixelSpace(8))
    two = remembered_frames(past(frames[:, moved], captions[:, moved]), [[new_index[index] for index in order]], plan, PixelSpace(8))
    for own, other in zip(one, two, strict=True):
        assert torch.equal(own.latents, other.latents)
        assert torch.equal(own.captions.tokens, other.captions.tokens)


def test_noise_of_the_memory_is_a_stream_per_story() -> None:
    frames, captions = torch.zeros(2, 2, 3, 64, 64), torch.zeros(2, 2, 1, dtype=torch.long)
    plan = MemoryPolicy("uniform").plan(2, short_side=8)

    def noisy(seeds: list[int], rows: slice) -> torch.Tensor:
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        ranks = [[0, 1]] * len(seeds)
        noise = torch.full((len(seeds), 2), 0.2)
        return remembered_frames(past(frames[rows], captions[rows], noise), ranks, plan, PixelSpace(8), generators=streams)[0].latents

    both = noisy([1, 2], slice(0, 2))
    assert torch.equal(both[1:], noisy([2], slice(1, 2)))
    # The frames are 0, so the deviation is the noise level; its standard error over 49,152 values is 0.2 / 313 = 6e-4.
    assert abs(float(both.std()) - 0.2) < 0.01


@pytest.mark.parametrize(
    ("policy", "tokens"),
    [
        (MemoryPolicy("none"), 0),
        (MemoryPolicy("uniform"), 8 * 64),
        (MemoryPolicy("uniform", count=2), 2 * 64),
        (MemoryPolicy("uniform", side=4, count=11), 8 * 16),
        (MemoryPolicy(), 2 * (64 + 16 + 9 + 1)),
        (MemoryPolicy(frames_per_level=1), 64 + 16 + 9 + 1 + 1),
        (MemoryPolicy(budget_tokens=100), 64 + 16 + 9 + 1 + 1),
    ],
    ids=["none", "full", "recent", "uniform", "golden", "golden one a level", "golden on a budget"],
)
def test_policies_cost_the_tokens_of_their_frames(policy: MemoryPolicy, tokens: int) -> None:
    assert policy.plan(8, short_side=8).tokens == tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "silver"}, "memory.kind is 'silver': choose one of none, uniform, golden"),
        ({"order": "size"}, "memory.order is 'size'"),
        ({"frames_per_level": 0}, "memory.frames_per_level is 0"),
        ({"budget_tokens": -1}, "memory.budget_tokens is -1"),
    ],
    ids=["kind", "order", "level", "budget"],
)
def test_invalid_policies_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MemoryPolicy(**settings)


def test_a_budget_below_one_frame_is_refused() -> None:
    with pytest.raises(UserError, match="one full frame has"):
        MemoryPolicy(budget_tokens=10).plan(8, short_side=8)
    with pytest.raises(UserError, match="side is 9 but a frame has a side of 8"):
        MemoryPolicy("uniform", side=9).plan(8, short_side=8)


class SpaceElsewhere(PixelSpace):
    """A latent space on another device than the data, such as a VAE on a GPU."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.to("meta")


@pytest.mark.parametrize("streams", [None, [torch.Generator().manual_seed(0)]], ids=["clean", "noisy"])
def test_a_memory_is_on_the_device_of_its_space(streams: list[torch.Generator] | None) -> None:
    frames, captions = torch.zeros(1, 5, 3, 64, 64), torch.zeros(1, 5, 1, dtype=torch.long)
    plan = MemoryPlan(((8, 8), (4, 4)), num_dropped=3)
    noise = torch.full((1, 5), 0.2)
    groups = remembered_frames(past(frames, captions, noise), [[0, 1, 2, 3, 4]], plan, SpaceElsewhere(8), generators=streams)
    assert len(groups) == 2
    for group in groups:
        assert all(tensor.is_meta for tensor in (group.latents, group.timesteps, group.position_ids))
