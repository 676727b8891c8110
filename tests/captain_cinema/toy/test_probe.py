"""The probe: exact for an exact model, at chance without a memory."""

import torch

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.models import CaptionEmbeddings, PixelSpace
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.numerics.flow import sampling_timesteps
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from captain_cinema.toy.captions import caption_indices, parse_caption
from captain_cinema.toy.probe import (
    Reappearance,
    measure_reappearances,
    read_identity,
    read_setting,
    sample_reappearances,
)
from captain_cinema.toy.rendering import render_images


class Painter:
    """A keyframe model with exact velocities towards given frames, looked up by caption."""

    space = PixelSpace(8)
    text_tokens = 5

    def __init__(self, scenes: dict[tuple[int, ...], torch.Tensor]) -> None:
        self._frames = scenes

    def encode_captions(self, captions):
        return CaptionEmbeddings(caption_indices([parse_caption(caption) for caption in captions]))

    def remember(self, frames):
        return []

    def sigmas(self, num_steps, num_tokens):
        return sampling_timesteps(num_steps)

    def velocity(self, frames, *, attention="extend", memory=None, guidance=None, negative=None):
        (target,) = [group for group in frames if not group.is_memory]
        data = torch.stack([torch.stack([self._frames[tuple(row.tolist())] for row in rows]) for rows in target.captions.tokens])
        return [(target.latents - data) / target.timesteps[..., None, None, None].clamp(min=1e-3)]


def test_the_probe_is_exact_for_an_exact_model() -> None:
    returns = sample_reappearances(5, 4, seed=0, min_gap=2)
    known = {}
    for item in returns:
        (row,) = caption_indices([parse_caption(item.storyboard.shots[-1].caption)])
        known[tuple(row.tolist())] = render_images([item.scene])[0]
    sampler = KeyframeSampler(Painter(known), MemoryPolicy(), SamplingConfig(num_steps=3), image_size=(64, 64))  # type: ignore[arg-type]
    outcomes, frames = measure_reappearances(sampler, returns)
    shown = render_images([item.scene for item in returns])
    exact = [index for index, item in enumerate(returns) if (frames[index] - shown[index]).abs().max() < 1e-4]
    assert len(exact) >= 4  # two stories may have the same caption; the model has one frame for both
    assert all(outcomes[index].identity and outcomes[index].set and outcomes[index].residual < 1e-3 for index in exact)
    assert all(outcome.character_gap >= 2 for outcome in outcomes)


def test_without_a_memory_the_upper_bound_is_chance(model: SmallMMDiT) -> None:
    returns = sample_reappearances(2, 3, seed=0)
    outcomes, _ = measure_reappearances(
        KeyframeSampler(model, MemoryPolicy("none"), SamplingConfig(num_steps=1), image_size=(64, 64)), returns
    )
    for outcome in outcomes:
        assert (outcome.identity_upper_bound, outcome.set_upper_bound, outcome.colour_upper_bound) == (1 / 384, 1 / 96, 1 / 6)
        assert not outcome.covered
    outcomes, _ = measure_reappearances(
        KeyframeSampler(model, MemoryPolicy("uniform"), SamplingConfig(num_steps=1), image_size=(64, 64)), returns
    )
    assert all(outcome.covered and outcome.identity_upper_bound == outcome.set_upper_bound == 1 for outcome in outcomes)


def test_upper_bounds_fall_with_size_and_noise_and_are_none_without_a_view() -> None:
    returns = sample_reappearances(12, 8, seed=3)

    def fraction(side: int, noise: float) -> float:
        right = 0
        for item in returns:
            kept = dict.fromkeys(range(8), (side, side))
            right += read_identity(item, kept, patch=8, context_noise=noise) == item.scene.identity
        return right / len(returns)

    assert fraction(8, 0.1) == fraction(1, 0.0) == 1.0
    assert fraction(1, 0.6) < 0.7
    item: Reappearance = returns[0]
    assert read_identity(item, {}, patch=8, context_noise=0.0) is None
    other = {index: (8, 8) for index, shot in enumerate(item.story.shots) if shot.name != item.shot.name}
    assert read_identity(item, other, patch=8, context_noise=0.0) is None
    assert read_setting(item, dict.fromkeys(range(8), (8, 8)), patch=8, context_noise=0.0) == item.scene.setting
