"""The model folder of `make train-var`: its parts and its tokenizer."""

from pathlib import Path

import pytest
import torch

from triptych.errors import UserError
from tts_var.models.autoencoder import binary_tokenizer
from tts_var.models.folder import PARTS, load_tokenizer

SIZES = {"latent_channels": 4, "base_channels": 8, "multipliers": [1, 2], "blocks_per_level": 1, "norm_groups": 4}


def test_the_text_encoder_is_trained_with_the_transformer() -> None:
    assert PARTS.stages == ("tokenizer", "reward", "transformer")
    assert PARTS.made_by("transformer") == ["transformer", "text_encoder"]


def test_a_saved_tokenizer_is_loaded_with_its_sizes_and_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = binary_tokenizer(**SIZES)  # type: ignore[arg-type]
    folder = PARTS.folder(tmp_path / "model")
    folder.save("tokenizer", tokenizer, SIZES)
    loaded = load_tokenizer(folder)
    assert loaded.config == tokenizer.config
    assert not loaded.training
    assert {name: value.tolist() for name, value in loaded.state_dict().items()} == {
        name: value.tolist() for name, value in tokenizer.state_dict().items()
    }
    assert {parameter.device.type for parameter in load_tokenizer(folder, device="meta").parameters()} == {"meta"}


def test_a_folder_without_a_tokenizer_is_refused_with_the_command_that_trains_it(tmp_path: Path) -> None:
    folder = PARTS.folder(tmp_path)
    folder.save("reward", torch.nn.Linear(1, 1), {})
    with pytest.raises(UserError, match="make train-var"):
        load_tokenizer(folder)
