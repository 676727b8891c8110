"""A small random model, and a wrapper that records its inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.toy.models import keyframe_mmdit


def small(build: Callable[..., SmallMMDiT] = keyframe_mmdit) -> SmallMMDiT:
    torch.manual_seed(0)
    model = build(width=32, num_heads=2, num_single=1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return model


class Spy(torch.nn.Module):
    """Calls a model and records its inputs and outputs."""

    def __init__(self, model: SmallMMDiT) -> None:
        super().__init__()
        self.model = model

    def forward(self, groups: list, *, attention: str) -> list[Tensor]:
        self.groups, self.attention = groups, attention
        self.found = [value.detach().requires_grad_() for value in self.model(groups, attention=attention)]
        return self.found


@pytest.fixture
def spy() -> Callable[..., Spy]:
    """Builds a `Spy` on a small random model."""
    return lambda build=keyframe_mmdit: Spy(small(build))
