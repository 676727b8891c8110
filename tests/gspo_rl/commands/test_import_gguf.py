"""`triptych import-gguf`."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_text("no model")
    command = [sys.executable, "-m", "triptych.commands.main", "import-gguf", str(tmp_path / "a.gguf"), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/a.gguf is not a GGUF file (it begins with b'no m'): give a GGUF file\n"
    assert not (tmp_path / "model").exists()
