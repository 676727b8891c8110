"""`triptych runs` and `triptych tail`: the runs below a folder with their states, and the last metrics of one run."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triptych.checkpoint.checkpointer import Checkpointer
from triptych.checkpoint.export import FILES
from triptych.commands.main import Verbs
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import read_json, read_yaml
from triptych.run.identity import CONFIG_FILE, IDENTITY_FILE, RUN_FILES
from triptych.run.lock import is_locked
from triptych.telemetry.tracking.jsonl import read_rows


@dataclass(frozen=True)
class RunState:
    """State of one run, read from its folder.

    Attributes:
        folder: the run's folder.
        state: `running`, `finished`, `dead at step N`, from which the same command resumes, or `broken: ` and the reason.
        step: the last step in its metrics; None where there is none.
        summary: content of `summary.json`; empty unless the run is finished.
    """

    folder: Path
    state: str
    step: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_broken(self) -> bool:
        """Whether a file of the run cannot be read."""
        return self.state.startswith("broken")


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
        if set(files) & {*RUN_FILES, IDENTITY_FILE}:
            found.append(Path(folder))
    return [read_state(folder) for folder in sorted(found)]


def read_state(folder: Path) -> RunState:
    """The state of one run, which is `running` while a process of this machine, or of its shared file system, holds its lock."""
    try:
        for name in (*sorted(RUN_FILES), IDENTITY_FILE):
            if not (folder / name).is_file():
                raise UserError(f"it has no {name}")
        read_yaml(folder / CONFIG_FILE, "restore it")
        rows = read_rows(folder / "metrics.jsonl")
        summary = read_json(folder / "summary.json", "restore it") if (folder / "summary.json").exists() else {}
        if not isinstance(summary, dict):
            raise UserError(f"{folder / 'summary.json'} is no table")
        steps = Checkpointer(folder / "checkpoints", World()).steps()
        running = is_locked(folder)
    except (UserError, OSError) as error:
        reason = str(error).replace(f"{folder}/", "").split(": ")[0]
        return RunState(folder, f"broken: {reason}")
    if running:
        state = "running"
    elif summary:
        state = "finished"
    else:
        state = f"dead at step {steps[-1]}" if steps else "dead before its first checkpoint"
    return RunState(folder, state, rows[-1]["step"] if rows else None, summary)


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
