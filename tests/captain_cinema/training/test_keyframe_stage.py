"""Training steps of the keyframe model: which frames have a loss, and independence of the split into ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.numerics.curriculum import Stage
from captain_cinema.toy.captions import CAPTION_FIELDS
from captain_cinema.toy.dataset import TinyCinema
from captain_cinema.training.keyframe_stage import KeyframeLossConfig, KeyframeStage
from triptych.errors import UserError


def stage(model: SmallMMDiT, regime: str = "extend", pairs: int = 4, **loss: object) -> KeyframeStage:
    memories = {"golden": MemoryPolicy(), "none": MemoryPolicy("none")}
    config = KeyframeLossConfig(regimes={regime: 1.0}, policies={"golden": 1.0}, **loss)  # type: ignore[arg-type]
    return KeyframeStage(model, TinyCinema(8, num_next=2), memories, [Stage(pairs, 10)], config, seed=0)


@pytest.mark.parametrize("regime", ["causal", "extend", "forcing"])
def test_the_loss_of_a_batch_is_the_mean_of_its_halves(spy: Callable[..., Any], regime: str) -> None:
    model = spy().model
    part = stage(model, regime)
    whole = part.losses(model, [3, 1, 4, 2], step=5, first=0, batch_size=4)["loss"]
    halves = [part.losses(model, indices, step=5, first=first, batch_size=4)["loss"] for indices, first in (([3, 1], 0), ([4, 2], 2))]
    assert torch.allclose(whole, (halves[0] + halves[1]) / 2, rtol=1e-5)
    assert not torch.allclose(whole, part.losses(model, [3, 1, 4, 2], step=6, first=0, batch_size=4)["loss"], rtol=1e-5)


def test_extend_gives_the_memory_no_loss_and_noise_within_its_bound(spy: Callable[..., Any]) -> None:
    shown = spy()
    stage(shown.model, context_noise=0.25).losses(shown, [0, 1], step=0, first=0, batch_size=2)["loss"].backward()
    *memory, target = shown.groups
    assert shown.attention == "extend"
    assert memory
    assert all(group.is_memory for group in memory)
    assert all(float(group.timesteps.max()) <= 0.25 for group in memory)
    assert all(value.grad is None for value in shown.found[:-1])
    assert shown.found[-1].grad is not None
    assert (target.position_ids == 0).all()
    assert target.latents.shape == (2, 2, 3, 64, 64)


@pytest.mark.parametrize(("regime", "attention"), [("causal", "causal"), ("forcing", "joint")])
def test_forcing_gives_every_frame_its_own_noise_and_a_loss(spy: Callable[..., Any], regime: str, attention: str) -> None:
    shown = spy()
    stage(shown.model, regime).losses(shown, [0, 1], step=0, first=0, batch_size=2)["loss"].backward()
    (group,) = shown.groups
    assert shown.attention == attention
    assert group.latents.shape == (2, 4, 3, 64, 64)
    assert len(set(group.timesteps.flatten().tolist()) - {1.0}) > 3
    assert shown.found[0].grad is not None
    assert (shown.found[0].grad.flatten(2).abs().amax(2) > 0).all()
    assert group.position_ids[0].tolist() == [3, 2, 1, 0]


def test_captions_describe_looks_without_a_memory(spy: Callable[..., Any]) -> None:
    colour = CAPTION_FIELDS.index("colour")
    for pairs, described in ((1, True), (4, False)):
        shown = spy()
        stage(shown.model, pairs=pairs, described=0.0, described_alone=1.0).losses(shown, [0, 1], step=0, first=0, batch_size=2)
        assert (len(shown.groups) == 1) == (pairs == 1)
        assert ((shown.groups[-1].captions.tokens[..., colour] > 0) == described).all()
        assert all(
            (group.captions.tokens[..., colour] == 0).all() for group in shown.groups[:-1]
        )  # otherwise the caption would replace the frame


def test_position_ids_of_a_memory_increase_with_gaps_up_to_the_bound(spy: Callable[..., Any]) -> None:
    shown = spy()
    gaps = set()
    for step in range(6):
        stage(shown.model, position_gap=3).losses(shown, [0, 1], step=step, first=0, batch_size=2)
        position_ids = torch.cat([group.position_ids for group in shown.groups[:-1]], dim=1)
        steps = position_ids.diff(dim=1, prepend=torch.zeros(2, 1))
        assert (steps >= 1).all()
        gaps |= set(steps.flatten().tolist())
    assert max(gaps) == 4.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regimes": {"all": 1.0}}, "loss.regimes is"),
        ({"regimes": {"extend": 0.0}}, "at least one above 0"),
        ({"context_noise": 2.0}, "loss.context_noise is 2.0"),
        ({"weight_floor": 0.0}, "weight_floor is 0.0"),
    ],
    ids=["regime", "weights", "noise", "floor"],
)
def test_invalid_losses_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KeyframeLossConfig(**settings)  # type: ignore[arg-type]
