"""Layout of the model folder that `make train-var` writes, and loading of its tokenizer."""

import torch

from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from tts_var.models.autoencoder import BinaryTokenizer, binary_tokenizer

PARTS = ModelParts(
    "make train-var", {"tokenizer": "tokenizer", "reward": "reward", "transformer": "transformer", "text_encoder": "transformer"}
)


def load_tokenizer(folder: ModelFolder, *, device: torch.device | str = "cpu") -> BinaryTokenizer:
    """The tokenizer of a model folder, on `device`."""
    tokenizer = folder.config_of("tokenizer", binary_tokenizer)
    folder.load("tokenizer", tokenizer)
    return tokenizer.to(device)
