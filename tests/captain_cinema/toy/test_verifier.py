"""The verifier: exact on rendered frames, at chance on frames of other scenes."""

import pytest
import torch

from captain_cinema.toy.rendering import (
    ACTIONS,
    IDENTITY_VALUES,
    POSITIONS,
    PROPS,
    SETTING_VALUES,
    SIZES,
    Identity,
    Scene,
    Setting,
    render_clip,
    render_images,
)
from captain_cinema.toy.verifier import IDENTITIES, SETTINGS, every_identity, every_setting, read_action, read_frames


def scenes(count: int, seed: int = 0) -> list[Scene]:
    stream = torch.Generator().manual_seed(seed)

    def one(values) -> str:
        return values[int(torch.randint(len(values), (), generator=stream))]

    return [
        Scene(
            Identity(*map(one, IDENTITY_VALUES)), Setting(*map(one, SETTING_VALUES)), one(tuple(SIZES)), one(tuple(POSITIONS)), one(PROPS)
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_verifier_is_exact(noise: float) -> None:
    wanted = scenes(200)
    frames = render_images(wanted)
    frames = frames + noise * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    readings = read_frames(frames, wanted)
    assert [(reading.identity, reading.setting) for reading in readings] == [(scene.identity, scene.setting) for scene in wanted]
    assert [reading.prop for reading in readings] == [scene.prop for scene in wanted]
    if not noise:
        assert max(reading.residual for reading in readings) < 1e-3


def test_the_verifier_is_at_chance_on_frames_of_other_scenes() -> None:
    wanted = scenes(300)
    shown = [
        Scene(other.identity, other.setting, own.size, own.position, own.prop) for own, other in zip(wanted, scenes(300, 9), strict=True)
    ]
    readings = read_frames(render_images(shown), wanted)
    right = sum(reading.identity.colour == scene.identity.colour for reading, scene in zip(readings, wanted, strict=True)) / 300
    assert abs(right - 1 / 6) < 4 * (5 / 36 / 300) ** 0.5
    assert [reading.identity for reading in readings] == [scene.identity for scene in shown]


def test_the_residual_of_noise_is_large() -> None:
    wanted = scenes(4)
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert min(reading.residual for reading in read_frames(noise, wanted)) > 0.4


@pytest.mark.parametrize("index", range(3))
def test_composed_candidates_equal_rendered_frames(index: int) -> None:
    (scene,) = scenes(1, seed=20 + index)
    plain = Scene(scene.identity, scene.setting, scene.size, scene.position, "none")
    rendered = render_images([plain])[0]
    assert (every_identity(scene)[IDENTITIES.index(scene.identity)] - rendered).abs().max() < 1e-5
    assert (every_setting(scene)[SETTINGS.index(scene.setting)] - rendered).abs().max() < 1e-5


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_read_from_motion_alone(action: str) -> None:
    stream = torch.Generator().manual_seed(3)
    mixed_right = 0
    for scene in scenes(12, seed=5):
        clip = render_clip(scene, action)
        assert torch.equal(clip[0], render_images([scene])[0])
        assert read_action(clip, scene) == action
        assert read_action(clip[:1].expand_as(clip), scene) == "still"
        mixed = torch.cat((clip[:1], clip[1 + torch.randperm(len(clip) - 1, generator=stream)]))
        mixed_right += read_action(mixed, scene) == action
    assert action == "still" or mixed_right <= 4
