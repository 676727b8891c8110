"""A command in this process, in an empty folder, with the project's configs."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from projects import ROOT, commands


@pytest.fixture
def run_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `<name>_gspo` with overrides and returns its exit code."""
    monkeypatch.setenv("TRIPTYCH_CONFIGS", str(ROOT / "configs"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # the command sets it
    monkeypatch.chdir(tmp_path)

    def run(name: str, *overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *overrides])
        try:
            commands()[f"{name}_gspo"]()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        return 0

    return run
