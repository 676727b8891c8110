"""A checkpoint's weights as a folder in Hugging Face format."""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from gspo_rl.models.adapter import ADAPTER_FILE, merged_state
from triptych.errors import UserError
from triptych.files import read_json

_SCORER_PREFIX = "model."


def export_policy(files: Path, weights: Mapping[str, Tensor], output: Path) -> None:
    """The exporter `hugging_face`: writes the files that `Policy.save` would write.

    The weights are loaded into the model's own class, whose `save_pretrained` has the names and the layout of its family on disk.

    Args:
        files: folder written by `Policy.save_files`.
        weights: of the `TokenScorer`, by name.
        output: the folder to fill.

    Raises:
        UserError: if the weights do not match the model that the config describes.
    """
    disable_progress_bar()
    config = AutoConfig.from_pretrained(files, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        adapter = files / ADAPTER_FILE
        if adapter.is_file():
            # peft is optional.
            lora = importlib.import_module("gspo_rl.models.lora")
            lora.LoRA(**read_json(adapter, "export another run")).add(model)
    state = {name.removeprefix(_SCORER_PREFIX): tensor for name, tensor in weights.items()}
    found = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing or found.unexpected_keys:
        name = (missing or found.unexpected_keys)[0]
        raise UserError(
            f"the checkpoint does not match the {type(model).__name__} of {files / 'config.json'}, '{name}' is missing or unexpected: "
            "choose a checkpoint of the run that wrote this config"
        )
    if (files / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(files)
    model.save_pretrained(output, state_dict=merged_state(model) if adapter.is_file() else None)
    for path in files.iterdir():
        if path.name not in ("weights.json", ADAPTER_FILE) and not (output / path.name).exists():
            shutil.copyfile(path, output / path.name)
