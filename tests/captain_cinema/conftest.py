"""Fixtures of contract tests: a caption encoder and models that do not depend on tiny cinema, and those of tiny cinema if installed."""

import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT


class HashedWords(nn.Module):
    """A caption encoder for any words, which are hashed to 64 embeddings."""

    num_tokens = 6

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, width)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        rows = [[1 + zlib.crc32(word.encode()) % 63 for word in caption.split()][: self.num_tokens] for caption in captions]
        return torch.tensor([row + [0] * (self.num_tokens - len(row)) for row in rows])

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)


def _small(*, moments: bool) -> SmallMMDiT:
    torch.manual_seed(0)
    config = MMDiTConfig(width=32, num_heads=2, num_double=1, num_single=1, moments=moments)
    model = SmallMMDiT(config, HashedWords(32))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return model.eval()


def _toy(module: str, name: str) -> Callable[..., object]:
    return getattr(import_module(f"captain_cinema.toy.{module}"), name)


HAS_TOY = find_spec("captain_cinema.toy") is not None


@pytest.fixture(params=["small", pytest.param("tiny_cinema", marks=pytest.mark.skipif(not HAS_TOY, reason="captain_cinema.toy is absent"))])
def keyframe_model(request: pytest.FixtureRequest) -> object:
    """Every `KeyframeModel`."""
    return _small(moments=False) if request.param == "small" else _toy("models", "load_keyframe_model")()


@pytest.fixture
def clip_model() -> SmallMMDiT:
    """A random video model."""
    return _small(moments=True)


@pytest.fixture(scope="session")
def model() -> SmallMMDiT:
    """A random keyframe model of tiny cinema."""
    torch.manual_seed(0)
    model: SmallMMDiT = _toy("models", "keyframe_mmdit")(width=32, num_heads=2, num_double=1, num_single=1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return model.eval()
