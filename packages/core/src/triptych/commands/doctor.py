"""`triptych doctor`: versions, devices, optional libraries and broken runs on one page."""

import argparse
import os
import platform
from pathlib import Path

import torch

from triptych.commands.main import Verbs
from triptych.commands.optional import optional_libraries
from triptych.commands.runs import find_runs
from triptych.run.provenance import commit, versions


def diagnose(folder: Path) -> str:
    """What a report of a problem needs: versions, devices, optional libraries with the command that installs each, broken runs.

    Args:
        folder: that holds the runs; it need not exist.
    """
    return "\n".join([*_software(), *_devices(), *_optional(), *_runs(folder)])


def _software() -> list[str]:
    made = commit() or "unknown: neither a checkout nor a wheel of one"
    lines = [f"python      {platform.python_version()} on {platform.platform()}", f"commit      {made}", "", "versions"]
    return lines + [f"  {name} {version}" for name, version in versions().items()]


def _devices() -> list[str]:
    lines = ["", "devices", f"  cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch in each process"]
    if os.environ.get("OMP_NUM_THREADS") is None and (os.cpu_count() or 1) <= 4:
        lines += ["  on few or shared cores, OMP_NUM_THREADS=1 is faster"]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        lines += [f"  cuda:{index}: {found.name}, {found.total_memory / 2**30:.0f} GiB, capability {found.major}.{found.minor}"]
    if not torch.cuda.is_available():
        built = "torch is a build without CUDA" if torch.version.cuda is None else f"torch is a build for CUDA {torch.version.cuda}"
        lines += [f"  no CUDA device: {built}"]
    return lines


def _optional() -> list[str]:
    found = optional_libraries()
    return ["", "optional"] + [
        f"  {library.name}: " + ("installed" if library.is_installed else f"missing, install it with {library.command}")
        for library in found
    ]


def _runs(folder: Path) -> list[str]:
    if not folder.is_dir():
        return ["", f"runs        none: there is no folder {folder}"]
    runs = find_runs(folder)
    broken = [run for run in runs if run.is_broken]
    return ["", f"runs        {len(runs)} below {folder}, {len(broken)} broken"] + [
        f"  {run.folder.relative_to(folder)}: {run.state}" for run in broken
    ]


def _doctor(arguments: argparse.Namespace) -> str:
    return diagnose(arguments.folder)


def register(verbs: Verbs) -> None:
    """Adds the subcommand `doctor`."""
    parser = verbs.add_parser("doctor", help="print versions, devices, missing extras and broken runs")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="folder that holds the runs")
    parser.set_defaults(answer=_doctor)
