"""Recorded runs of the released code in the folder TRIPTYCH_GOLDEN: tensors and configs by name."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"
# Fixture -> family, and the ending of the file that every recording of the kind has.
KINDS = {
    "infinity_variant": ("infinity", ".teacher.safetensors"),
    "var_variant": ("var", ".teacher.safetensors"),
    "search_recording": ("infinity", ".config.json"),
}


class Golden:
    """A folder of recordings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> dict[str, Any]:
        """Tensors of a recording in float32 (integers keep their type), or a config if the name ends in `.config`."""
        if name.endswith(".config"):
            return dict(json.loads((self.folder / f"{name}.json").read_text()))
        tensors = load_file(self.folder / f"{name}.safetensors")
        return {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in tensors.items()}

    def has(self, name: str) -> bool:
        """Whether there is a recording of this name."""
        return (self.folder / f"{name}.safetensors").is_file()


def folder() -> Path:
    """The folder of recordings."""
    return Path(os.environ.get("TRIPTYCH_GOLDEN") or _DEFAULT)


def are_expected() -> bool:
    """Whether there must be recordings: TRIPTYCH_GOLDEN names their folder, or the default one exists."""
    return bool(os.environ.get("TRIPTYCH_GOLDEN")) or folder().is_dir()


def recordings(kind: str) -> list[str]:
    """Names of the recordings of a kind, by listing the folder; those of searches have the particles alive in their config."""
    family, ending = KINDS[kind]
    names = sorted(path.name.removesuffix(ending) for path in (folder() / family).glob(f"*{ending}"))
    if kind == "search_recording":
        return [name for name in names if "batch_schedule" in json.loads((folder() / family / f"{name}.config.json").read_text())]
    return names
