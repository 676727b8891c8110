"""Model folders as `make train-var` writes them: tokenizer, transformer with its text encoder, and reward."""

from pathlib import Path

import torch

from triptych.checkpoint.model_folder import ModelFolder
from tts_var.models.autoencoder import BinaryTokenizer, binary_tokenizer

STAGE_OF = {"tokenizer": "tokenizer", "transformer": "transformer", "text_encoder": "transformer", "reward": "reward"}


def model_folder(path: Path, *, hint: str = "give a folder that it wrote") -> ModelFolder:
    """A folder that `make train-var` writes.

    Args:
        path: the folder.
        hint: what else could be done where it holds no model.
    """
    return ModelFolder(path, train=_train_command, hint=hint)


def load_tokenizer(folder: ModelFolder, *, device: torch.device | str = "cpu") -> BinaryTokenizer:
    """The tokenizer of a model folder, on `device`."""
    tokenizer = folder.config_of("tokenizer", binary_tokenizer)
    folder.load("tokenizer", tokenizer)
    return tokenizer.to(device)


def _train_command(part: str | None = None) -> str:
    return "make train-var" if part is None else f'make train-var ARGS="stages=[{STAGE_OF[part]}]"'
