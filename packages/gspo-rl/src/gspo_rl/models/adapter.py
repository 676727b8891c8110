"""A trained update beside the frozen weights of a model: the contract of adapters, and the sum of both."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

NAME = "default"
"""peft's name of the one adapter of a model."""


_WRAPPED = ".base_layer"

ADAPTER_FILE = "adapter.json"
"""File with the settings of an adapter beside the files of a policy whose checkpoints hold the update apart from the weights."""


class Adapter(Protocol):
    """Contract of updates that are trained in place of a model's own weights."""

    def add(self, model: nn.Module) -> None:
        """Freezes a model and adds an update that is 0 at first, in place."""
        ...

    def save(self, model: nn.Module, folder: Path, *, base: str) -> None:
        """Writes the update alone into a new folder; `base` is the path or name of the model before it."""
        ...

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that build an equal adapter."""
        ...


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a linear layer multiplies by: with its update, if it has one."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not _has_update(layer):
        return weight
    update = layer.get_delta_weight(NAME)  # type: ignore[operator]  # a method of peft's layers
    assert isinstance(update, Tensor)
    return weight + update


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with updates as that of the plain model: each added to its weight."""
    updated: dict[str, Any] = {}
    for name, layer in layers_with_update(model).items():
        # Experts are parameters of one module, and each has a wrapper of its own around the last one's.
        updated[f"{name.replace(_WRAPPED, '')}.{getattr(layer, 'parameter_name', 'weight')}"] = layer
    state = {}
    for name, tensor in model.state_dict().items():
        plain = name.replace(_WRAPPED, "")
        if ".lora_" not in name:
            state[plain] = tensor + updated[plain].get_delta_weight(NAME) if plain in updated else tensor
    return state


def layers_with_update(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have an update, by name."""
    return {name: module for name, module in model.named_modules() if _has_update(module)}


def _has_update(module: nn.Module) -> bool:
    return hasattr(module, "get_delta_weight")
