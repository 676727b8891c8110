"""Provenance: the commit, versions, hardware and command of a process."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from triptych.run.provenance import provenance

ROOT = Path(__file__).parents[3]


def test_versions_hardware_and_command_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/train", "name=two words", "seed=1"])
    found = provenance()
    assert found["command"] == "train 'name=two words' seed=1", "without the folder of the program, quoted for a shell"
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["hydra-core"] == version("hydra-core")
    assert found["python"] == platform.python_version()
    assert found["num_cpus"] == os.cpu_count()
    assert found["num_threads"] == torch.get_num_threads()
    assert len(found["devices"]) == torch.cuda.device_count()
    assert found["processor"]
    assert json.loads(json.dumps(found)) == found


def test_the_commit_is_that_of_the_checkout_with_a_mark_for_changed_files() -> None:
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    commit = provenance()["commit"]
    base = commit.removesuffix("-dirty")
    assert len(base) >= 12
    assert head.stdout.startswith(base)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout
    assert commit.endswith("-dirty") == bool(changed.strip())


def test_without_git_the_commit_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["commit"] is None
