"""Low-rank adaptation (arXiv 2106.09685) of a policy, by peft (the extra `lora`).

The frozen weights and the update are separate parameters in training; a saved policy holds their sum, which any library loads.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from gspo_rl.models.adapter import NAME, layers_with_update
from triptych.errors import UserError


class LoRA:
    """A low-rank update of every chosen matrix.

    Args:
        rank: of the update.
        alpha: the update is scaled by `alpha / rank`.
        targets: `all-linear` for every linear layer but the head, or the ends of the names of layers, such as `q_proj,v_proj`.

    Raises:
        UserError: for an impossible setting.
    """

    def __init__(self, *, rank: int = 16, alpha: int = 32, targets: str = "all-linear") -> None:
        if not isinstance(rank, int) or not isinstance(alpha, int) or rank < 1 or alpha < 1:
            raise UserError(f"adapter.rank is {rank} and adapter.alpha {alpha}: both must be whole numbers, 1 or more")
        if not isinstance(targets, str):
            raise UserError(f"adapter.targets is {targets}: give all-linear, or ends of names as one text, such as 'q_proj,v_proj'")
        self._rank, self._alpha, self._targets = rank, alpha, targets

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {"rank": self._rank, "alpha": self._alpha, "targets": self._targets}

    def add(self, model: nn.Module) -> None:
        """Freezes a model of transformers and adds low-rank updates, which are 0 at first, in place.

        Raises:
            UserError: if no layer of the model has a name in `targets`, or the head is among them.
        """
        ends = [] if self._targets == "all-linear" else [name.strip() for name in self._targets.split(",")]
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same start on every rank, whatever the number of ranks
            try:
                with warnings.catch_warnings():
                    # peft warns of what it chose by itself: the layout of GPT-2's layers, and names that a model lacks.
                    warnings.filterwarnings("ignore", message=r"fan_in_fan_out is set to False|The following (rank|alpha)_pattern keys")
                    inject_adapter_in_model(LoraConfig(r=self._rank, lora_alpha=self._alpha, target_modules=ends or self._targets), model)
            except ValueError as error:
                raise UserError(f"adapter.targets is '{self._targets}': {str(error).splitlines()[0]}") from error
        head = getattr(model, "get_output_embeddings", lambda: None)()
        layers = layers_with_update(model)
        if any(module is head for module in layers.values()):
            raise UserError(f"adapter.targets is '{self._targets}', which names the head of the model: leave it out")
        if any(".lora_embedding_" in name for name, _ in model.named_parameters()):
            raise UserError(f"adapter.targets is '{self._targets}', which names an embedding: leave it out")
        missing = [end for end in ends if not any(name.endswith(end) for name in layers)]
        if missing:
            raise UserError(f"adapter.targets is '{self._targets}', and no layer ends in '{missing[0]}': correct the name")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".lora_A.{NAME}" in name or f".lora_B.{NAME}" in name)

    def save(self, model: nn.Module, folder: Path, *, base: str) -> None:
        """Writes the update alone in the format of peft; see `gspo_rl.models.adapter.Adapter`."""
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
        save_file(named, folder / "adapter_model.safetensors")
        configs: Any = model.peft_config
        written = copy.copy(configs[NAME])  # with the targets that were found
        written.base_model_name_or_path, written.task_type, written.inference_mode = base, "CAUSAL_LM", True
        written.save_pretrained(str(folder))
