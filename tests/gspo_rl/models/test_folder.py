"""Folders that hold no complete model: named for what they are, with the remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gspo_rl.models.folder import check_folder
from gspo_rl.models.policy import Policy, pretrained_policy
from triptych.errors import UserError


@pytest.fixture
def folder(small_policy: Policy, tmp_path: Path) -> Path:
    small_policy.save(tmp_path / "model")
    return tmp_path / "model"


def _adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-0.6B"}))


def _gguf(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "a.gguf").write_bytes(b"GGUF")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")


def _pointer_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _shard(folder: Path) -> None:
    table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / table["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def _index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_adapter, "a LoRA adapter of Qwen/Qwen3-0.6B: merge it"), (_gguf, "triptych import-gguf .*a.gguf <folder>"), (_pickled, "pickled .*pytorch_model.bin.*safetensors"),
        (_pointer, "model.safetensors is a pointer of git-lfs .*git lfs pull"), (_pointer_tokenizer, "tokenizer.json is a pointer of git-lfs"),
        (_truncated, "truncated or damaged .*download it again"), (_empty, "truncated or damaged"), (_shard, "lacks model-00002-of-00002.safetensors"),
        (_index, "not the index of a model"), (lambda folder: (folder / "model.safetensors").unlink(), "without weights"),
        (lambda folder: (folder / "config.json").unlink(), "without config.json"), (lambda folder: (folder / "tokenizer.json").unlink(), "without a tokenizer"),
    ],
)  # fmt: skip
def test_what_is_no_complete_model_is_named(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    check_folder(folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        pretrained_policy(str(folder))
    assert "\n" not in str(caught.value)


def test_a_gguf_file_as_a_path_is_named() -> None:
    with pytest.raises(UserError, match="a GGUF file: triptych import-gguf /models/a.gguf <folder>"):
        pretrained_policy("/models/a.gguf")
