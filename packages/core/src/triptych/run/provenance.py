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

_LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn", "open_clip_torch", "safetensors", "hydra-core", "reasoning-gym")


def provenance() -> dict[str, Any]:
    """Provenance of this process, as plain JSON values.

    Keys: `commit` (None outside a git checkout, `-dirty` appended where tracked files differ), `versions`,
    `python`, `platform`, `processor`, `num_cpus`, `num_threads`, `devices`, `command`.
    """
    return {
        "commit": _commit(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
