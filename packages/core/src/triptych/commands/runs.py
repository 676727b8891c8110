"""`triptych runs` and `triptych tail`: the runs below a folder with their states, and the last metrics of one run."""

import argparse
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.checkpoint.checkpointer import Checkpointer
from triptych.checkpoint.export import FILES
from triptych.commands.main import Verbs
from triptych.distributed import World
from triptych.errors import UserError
from triptych.run.directory import LOCK
from triptych.telemetry.tracking.jsonl import read_rows


@dataclass(frozen=True)
class RunState:
    """State of one run, read from its folder.

    Attributes:
        folder: the run's folder.
        state: `running`, `finished`, or `dead at step N`, from which the same command resumes.
        step: the last step in its metrics; None where there is none.
        summary: content of `summary.json`; empty unless the run is finished.
    """

    folder: Path
    state: str
    step: int | None
    summary: dict[str, Any]


def find_runs(root: Path) -> list[RunState]:
    """All runs below a folder, by their paths.

    Raises:
        UserError: if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the folder that holds the runs (output_root)")
    found = []
    for folder, below, files in os.walk(root):  # ignores folders that a live run removes meanwhile
        below[:] = sorted(set(below) - {"checkpoints", "cache", FILES})
        if {"config.yaml", "provenance.json"} <= set(files):
            found.append(Path(folder))
    return [read_state(folder) for folder in sorted(found)]


def read_state(folder: Path) -> RunState:
    """The state of one run, which is `running` while a process of this machine, or of its shared file system, holds its lock."""
    rows = read_rows(folder / "metrics.jsonl")
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {}
    if _is_locked(folder / LOCK):
        state = "running"
    elif summary:
        state = "finished"
    else:
        steps = Checkpointer(folder / "checkpoints", World()).steps()
        state = f"dead at step {steps[-1]}" if steps else "dead before its first checkpoint"
    return RunState(folder, state, rows[-1]["step"] if rows else None, summary)


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their columns, aligned for a terminal."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (columns, *rows))


def _runs(arguments: argparse.Namespace) -> str:
    runs = find_runs(arguments.folder)
    rows = [[str(run.folder.relative_to(arguments.folder)), run.state, "" if run.step is None else str(run.step)] for run in runs]
    return text_table(["run", "state", "step"], rows)


def _tail(arguments: argparse.Namespace) -> str:
    rows = read_rows(arguments.run / "metrics.jsonl")
    if not rows:
        raise UserError(f"{arguments.run} has no metrics.jsonl, or an empty one: give the folder of a run")
    timings = {row["step"]: row for row in read_rows(arguments.run / "timings.jsonl")}
    return "\n".join(json.dumps({**row, **timings.get(row["step"], {})}) for row in rows[-arguments.lines :])


def register_runs(verbs: Verbs) -> None:
    """Adds the subcommand `runs`."""
    parser = verbs.add_parser("runs", help="list the runs below a folder and their states")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"))
    parser.set_defaults(answer=_runs)


def register_tail(verbs: Verbs) -> None:
    """Adds the subcommand `tail`."""
    parser = verbs.add_parser("tail", help="print the last rows of a run's metrics")
    parser.add_argument("run", type=Path)
    parser.add_argument("--lines", type=int, default=10)
    parser.set_defaults(answer=_tail)
