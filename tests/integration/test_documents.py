"""Documents: the Python examples run, and the links and make targets exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILES = [ROOT / "Makefile", *sorted(ROOT.glob("packages/*/targets.mk"))]
TARGETS = {target for path in MAKEFILES for target in re.findall(r"^([a-z-]+):.*##", path.read_text(), re.MULTILINE)}
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}:{index}")
    for path in DOCUMENTS
    for index, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_python_examples_run(code: str, tmp_path: Path) -> None:
    prelude = "from gspo_rl.data.batch import Prompt\n"  # import that the snippet of a class omits
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_targets_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"(?<![\w-])make ([a-z][a-z-]+)", "\n".join(re.findall(r"`[^`\n]+`|^make .*$", text, re.MULTILINE))):
        assert target in TARGETS, target
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("http") or (document.parent / link).exists(), link


def test_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    assert {"train-gspo", "evaluate-gspo", "test", "check"} <= TARGETS
    assert all(f"  {target} " in listed for target in TARGETS)


def test_an_interpreter_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text(f'#!/bin/sh\ncase "$1" in -c) exit 1;; --version) echo Python 3.8.1; exit 0;; esac\nexec {sys.executable} "$@"\n')
    old.chmod(0o755)
    files = ("Makefile", "pyproject.toml", "packages/constraints.txt", "packages/constraints-torch-default.txt")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["make", "-s", "install", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is Python 3.8.1: Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()
