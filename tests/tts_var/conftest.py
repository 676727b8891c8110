"""Recorded runs of the released code: `golden("infinity/plain.sample")`, skipped if the recordings are absent."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Tensors of a recording in float32 (integers keep their type), or a config if the name ends in `.config`."""
    folder = Path(os.environ.get("TRIPTYCH_GOLDEN", _ROOT.parent / "shared" / "golden"))

    def load(name: str) -> dict[str, Any]:
        if not folder.is_dir():
            pytest.skip(f"no recordings at {folder}: set TRIPTYCH_GOLDEN")
        if name.endswith(".config"):
            return dict(json.loads((folder / f"{name}.json").read_text()))
        tensors = load_file(folder / f"{name}.safetensors")
        return {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in tensors.items()}

    return load


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that compare with a recording."""
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.golden)
