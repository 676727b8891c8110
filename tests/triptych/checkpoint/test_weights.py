"""Weights: precision, strict loading, and refusal of truncated files."""

from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from triptych.checkpoint.weights import fill_strictly, read_safetensors
from triptych.errors import UserError

PARTS = ModelParts("make it", dict.fromkeys(("part", "encoder", "decoder", "tokenizer"), "all"))


def folder(path: Path) -> ModelFolder:
    return ModelFolder(path, PARTS, hint="or leave it")


def test_weights_are_loaded_in_the_precision_of_the_model(tmp_path: Path) -> None:
    saved = nn.Linear(3, 2).half()
    folder(tmp_path).save("part", saved, {})
    model = nn.Linear(3, 2)
    folder(tmp_path).load("part", model)
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, saved.weight.float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "bias is missing"),
        ({"other": torch.zeros(1)}, "other is unexpected"),
        ({"weight": torch.zeros(2, 4)}, r"weight has shape \(2, 4\) instead of \(2, 3\)"),
    ],
    ids=["missing", "unexpected", "another shape"],
)
def test_refused_weights_leave_the_model_unchanged(change: dict[str, torch.Tensor | None], message: str) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    state = {**nn.Linear(3, 2).state_dict(), **change}
    with pytest.raises(UserError, match=message):
        fill_strictly(model, {key: value for key, value in state.items() if value is not None}, "the file")
    assert torch.equal(model.weight, before)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder(tmp_path).save("part", nn.Linear(3, 2), {})
    path = tmp_path / "part.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        read_safetensors(path)
