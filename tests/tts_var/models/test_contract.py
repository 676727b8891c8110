"""The contract of next-scale models, tested for each family."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from triptych.errors import UserError
from tts_var.models import NextScaleModel
from tts_var.models.random_streams import KeyedStreams
from tts_var.testing import tiny_generator, tiny_var

WITHOUT_TOY = pytest.mark.skipif(find_spec("tts_var.toy") is None, reason="tts_var.toy is absent")


def small_world() -> NextScaleModel:
    from tts_var.toy import load_small_world

    return load_small_world()


@pytest.fixture(
    params=[
        (tiny_generator, ["a circle", "two red circles"], ""),
        (tiny_var, ["0", "2"], "3"),
        pytest.param((small_world, ["a red circle", "two squares"], "a pink circle"), marks=WITHOUT_TOY),
    ],
    ids=["infinity", "var", "small_world"],
)
def family(request: pytest.FixtureRequest) -> tuple[NextScaleModel, list[str], str]:
    build: Callable[[], NextScaleModel] = request.param[0]
    return build(), request.param[1], request.param[2]


def test_prompts_are_checked_without_encoding_any(family: tuple[Any, list[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, invalid = family

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a prompt was encoded")

    monkeypatch.setattr(type(model), "encode", refuse)
    for module in (child for child in vars(model).values() if isinstance(child, torch.nn.Module)):
        monkeypatch.setattr(type(module), "forward", refuse)
    model.check(prompts)
    with pytest.raises(UserError):
        model.check([*prompts, invalid])


@torch.no_grad()
def test_particles_advance_through_all_scales_and_decode_to_images(family: tuple[NextScaleModel, list[str], str]) -> None:
    model, prompts, _ = family
    condition = model.encode(prompts)
    particles = model.start(condition, 3)
    streams = KeyedStreams([1, 2])
    cache = [0]
    for scale in range(len(model.scales)):
        particles = model.advance(particles, condition, streams)
        cache.append(model.cache_bytes(scale))
        assert model.advance_flops(scale, condition) > 0
    assert cache == sorted(cache)
    images = model.decode(particles.latent)
    assert tuple(images.shape) == (6, 3, *model.image_size)
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images[0] - images[1]).abs().max() > 0
    assert model.decode_flops() > 0
    assert model.decode_flops(max_size=max(model.image_size) // 2) <= model.decode_flops()
