"""Model folders: parts and sizes are restored, damage is reported."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from triptych.errors import UserError


@dataclass
class Sizes:
    inputs: int = 3
    outputs: int = 2


PARTS = ModelParts("make it", dict.fromkeys(("part", "encoder", "decoder", "tokenizer"), "all"))


def folder(path: Path) -> ModelFolder:
    return ModelFolder(path, PARTS, hint="or leave it")


def test_parts_and_sizes_are_restored(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(4, 1)
    folder(tmp_path / "model").save("first", first, {"inputs": 3, "outputs": 2})
    folder(tmp_path / "model").save("second", second, {"inputs": 4, "outputs": 1})
    found = folder(tmp_path / "model")
    assert found.config_of("second", Sizes) == Sizes(4, 1)
    again = nn.Linear(3, 2)
    found.load("first", again)
    assert torch.equal(again.weight, first.weight)
    assert not again.training
    assert found.hash("first") != found.hash("second")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "first.safetensors", "second.safetensors", ".files.jsonl",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "model").glob("*.safetensors"))  # readable by all users


def test_the_message_for_an_empty_folder_gives_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model .*'make it'; or leave it"):
        folder(tmp_path).sizes()
    folder(tmp_path).save("part", nn.Linear(3, 2), {"inputs": 3})
    with pytest.raises(UserError, match="has no entry for the encoder"):
        folder(tmp_path).sizes_of("encoder")
    (tmp_path / "part.safetensors").unlink()
    with pytest.raises(UserError, match="no weights at"):
        folder(tmp_path).hash("part")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a table"),
        ("{", "is not JSON"),
        ('{"part": {"colour": 1}}', "the size 'colour': it has inputs, outputs"),
        ('{"part": {"inputs": "many"}}', "must be a number"),
    ],
)
def test_a_damaged_table_of_sizes_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        folder(tmp_path).config_of("part", Sizes)
