"""Low-rank adaptation (arXiv 2106.09685) of a policy, by peft (the extra `lora`).

The frozen weights and the update are separate parameters in training; a saved policy holds their sum, which any library loads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.errors import UserError

_FILE = "lora.json"
_ADAPTER = "default"  # peft's name of the one adapter


@dataclass
class LoRAConfig:
    """Settings of low-rank training.

    Attributes:
        rank: of the update of each matrix; 0 trains all parameters instead.
        alpha: the update is scaled by `alpha / rank`.
        targets: `all-linear` for every linear layer but the head, or the ends of the names of layers, such as `q_proj,v_proj`.
    """

    rank: int = 0
    alpha: int = 32
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f"lora.rank is {self.rank}: it must be 1 or more, or 0 to train all parameters")
        if self.alpha < 1:
            raise UserError(f"lora.alpha is {self.alpha}: it must be 1 or more")


def add_lora(model: nn.Module, config: LoRAConfig) -> None:
    """Freezes a model and adds low-rank updates, which are 0 at first, in place.

    Args:
        model: a model of transformers.
        config: settings with a rank above 0.

    Raises:
        UserError: if no layer of the model has a name in `targets`, or the head is among them.
    """
    # Imported lazily: full training needs no peft.
    from peft import LoraConfig, inject_adapter_in_model

    targets = config.targets if config.targets == "all-linear" else [name.strip() for name in config.targets.split(",")]
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same start on every rank, whatever the number of ranks
        try:
            inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), model)
        except ValueError as error:
            raise UserError(f"lora.targets is '{config.targets}': {str(error).splitlines()[0]}") from error
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if any(module is head for module in _lora_layers(model).values()):
        raise UserError(f"lora.targets is '{config.targets}', which names the head of the model: leave it out")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".lora_A.{_ADAPTER}" in name or f".lora_B.{_ADAPTER}" in name)


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a linear layer multiplies by: with its low-rank update, if it has one."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not _is_lora(layer):
        return weight
    update = layer.get_delta_weight(_ADAPTER)  # type: ignore[operator]  # a method of peft's layers
    assert isinstance(update, Tensor)
    return weight + update


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with low-rank updates as that of the plain model, updates added to the weights."""
    layers = _lora_layers(model)
    state = {}
    for name, tensor in model.state_dict().items():
        prefix, is_base, rest = name.partition(".base_layer.")
        if is_base:
            state[f"{prefix}.{rest}"] = effective_weight(layers[prefix]) if rest == "weight" else tensor
        elif ".lora_" not in name:
            state[name] = tensor
    return state


def write_lora(folder: Path, config: LoRAConfig) -> None:
    """Writes the settings that `read_lora` reads."""
    (folder / _FILE).write_text(json.dumps(asdict(config)))


def read_lora(folder: Path) -> LoRAConfig | None:
    """The settings in a folder; None if there are none."""
    path = folder / _FILE
    return LoRAConfig(**json.loads(path.read_text())) if path.is_file() else None


def save_adapter(model: nn.Module, config: LoRAConfig, folder: Path, *, base: str) -> None:
    """Writes the update alone in the format of peft.

    Args:
        model: with low-rank updates.
        config: their settings.
        folder: made if it is missing.
        base: path or name of the model before the update.
    """
    from peft import LoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    state: Mapping[str, Tensor] = model.state_dict()
    own = {name: tensor.contiguous() for name, tensor in state.items() if ".lora_" in name}
    save_file(
        {f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": tensor for name, tensor in own.items()},
        folder / "adapter_model.safetensors",
    )
    names = sorted(_lora_layers(model))
    written = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names, task_type="CAUSAL_LM", inference_mode=True)
    written.base_model_name_or_path = base
    written.save_pretrained(str(folder))


def _is_lora(module: nn.Module) -> bool:
    return hasattr(module, "get_delta_weight")


def _lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if _is_lora(module)}
