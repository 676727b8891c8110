"""The verifier: exact on what the world draws, at chance on other pictures."""

import pytest
import torch

from captain_cinema.toy.drawing import (
    ACTIONS,
    IDENTITY_VALUES,
    POSITIONS,
    PROPS,
    SETTING_VALUES,
    SIZES,
    Identity,
    Picture,
    Setting,
    draw_clip,
    draw_pictures,
)
from captain_cinema.toy.verifier import IDENTITIES, SETTINGS, every_identity, every_setting, read_action, read_frames


def pictures(count: int, seed: int = 0) -> list[Picture]:
    stream = torch.Generator().manual_seed(seed)

    def one(values) -> str:
        return values[int(torch.randint(len(values), (), generator=stream))]

    return [
        Picture(
            Identity(*map(one, IDENTITY_VALUES)), Setting(*map(one, SETTING_VALUES)), one(tuple(SIZES)), one(tuple(POSITIONS)), one(PROPS)
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_judge_is_exact(noise: float) -> None:
    wanted = pictures(200)
    frames = draw_pictures(wanted)
    frames = frames + noise * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    readings = read_frames(frames, wanted)
    assert [(reading.identity, reading.setting) for reading in readings] == [(picture.identity, picture.setting) for picture in wanted]
    assert [reading.prop for reading in readings] == [picture.prop for picture in wanted]
    if not noise:
        assert max(reading.residual for reading in readings) < 1e-3


def test_the_judge_is_at_chance_on_other_pictures() -> None:
    wanted = pictures(300)
    shown = [
        Picture(other.identity, other.setting, own.size, own.position, own.prop)
        for own, other in zip(wanted, pictures(300, 9), strict=True)
    ]
    readings = read_frames(draw_pictures(shown), wanted)
    right = sum(reading.identity.colour == picture.identity.colour for reading, picture in zip(readings, wanted, strict=True)) / 300
    assert abs(right - 1 / 6) < 4 * (5 / 36 / 300) ** 0.5
    assert [reading.identity for reading in readings] == [picture.identity for picture in shown]


def test_what_is_not_of_this_world_is_far_from_it() -> None:
    wanted = pictures(4)
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert min(reading.residual for reading in read_frames(noise, wanted)) > 0.4


@pytest.mark.parametrize("index", range(3))
def test_composed_candidates_are_the_drawings(index: int) -> None:
    (picture,) = pictures(1, seed=20 + index)
    plain = Picture(picture.identity, picture.setting, picture.size, picture.position, "none")
    drawn = draw_pictures([plain])[0]
    assert (every_identity(picture)[IDENTITIES.index(picture.identity)] - drawn).abs().max() < 1e-5
    assert (every_setting(picture)[SETTINGS.index(picture.setting)] - drawn).abs().max() < 1e-5


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_read_from_motion_alone(action: str) -> None:
    stream = torch.Generator().manual_seed(3)
    mixed_right = 0
    for picture in pictures(12, seed=5):
        clip = draw_clip(picture, action)
        assert torch.equal(clip[0], draw_pictures([picture])[0])
        assert read_action(clip, picture) == action
        assert read_action(clip[:1].expand_as(clip), picture) == "still"
        mixed = torch.cat((clip[:1], clip[1 + torch.randperm(len(clip) - 1, generator=stream)]))
        mixed_right += read_action(mixed, picture) == action
    assert action == "still" or mixed_right <= 4
