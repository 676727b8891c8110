"""`triptych`: what runs there are, what they last wrote, the model in their checkpoints, and what a sweep came to.

triptych runs [FOLDER]                      every run below FOLDER (default outputs) and its state
triptych tail RUN [--lines N]               the last rows of a run's metrics
triptych export RUN [--output FOLDER]       a model folder of a run's newest checkpoint, whatever strategy wrote it
triptych sweep-report SWEEP [--metrics A,B] one table and one page of a sweep: sweep.csv and sweep.html in its folder
"""

import argparse
import csv
import fcntl
import io
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.checkpoint import Checkpointer, write_atomically
from triptych.distributed import World
from triptych.errors import UserError
from triptych.export import FILES, export
from triptych.report.render import ReportConfig, Samples, render_report
from triptych.run import LOCK
from triptych.tracking.jsonl import read_rows


@dataclass(frozen=True)
class RunState:
    """One run as its folder tells it.

    Attributes:
        folder: the run's folder.
        state: `running`, `finished`, or `dead at step N`, from where the same command goes on.
        step: the last step in its metrics; None where there is none.
        summary: what it came to; empty unless it is finished.
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
        raise UserError(f"there is no folder {root}: name the one that holds the runs (output_root)")
    found = []
    for folder, below, files in os.walk(root):  # passes over what a run that goes on removes meanwhile
        below[:] = sorted(set(below) - {"checkpoints", "cache", FILES})
        if {"config.yaml", "provenance.json"} <= set(files):
            found.append(Path(folder))
    return [read_state(folder) for folder in sorted(found)]


def read_state(folder: Path) -> RunState:
    """The state of one run; a run counts as running while a process of this machine or a shared file system holds its lock."""
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


@dataclass(frozen=True)
class Sweep:
    """A sweep's members as a table.

    Attributes:
        columns: what differs among the members, `state`, `step`, and the metrics.
        rows: one per member, in order; a cell that a member does not have is empty.
        means: likewise over members that differ in the seed alone: mean and, of three or more, standard error.
    """

    columns: list[str]
    rows: list[list[str]]
    means: list[list[str]]


def read_sweep(folder: Path, metrics: Sequence[str] | None = None) -> Sweep:
    """The table of a sweep.

    Args:
        folder: the sweep's folder, `<output_root>/<name>`; each run below it is a member, named by its overrides.
        metrics: keys of `summary.json`, such as `accuracy_after`; None for all numbers that are there.

    Raises:
        UserError: if there is no run, or no member has one of the metrics.
    """
    members = find_runs(folder)
    if not members:
        raise UserError(f"{folder} holds no run: give the folder of a sweep")
    settings = [_settings(member.folder.relative_to(folder)) for member in members]
    numbers = [{key: value for key, value in member.summary.items() if _is_number(value)} for member in members]
    known = _in_order(key for found in numbers for key in found)
    missing = [metric for metric in metrics or [] if metric not in known]
    if missing:
        raise UserError(f"no member of {folder} has the metric '{missing[0]}': choose among {', '.join(known) or 'none yet'}")
    chosen = list(metrics) if metrics else [key for key in known if key != "seed"]
    keys = _in_order(key for found in settings for key in found)
    rows = [
        [
            *(found.get(key, "") for key in keys),
            member.state,
            "" if member.step is None else str(member.step),
            *(f"{own[key]:.6g}" if key in own else "" for key in chosen),
        ]
        for member, found, own in zip(members, settings, numbers, strict=True)
    ]
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for found, own in zip(settings, numbers, strict=True):
        if own:
            groups.setdefault(tuple(found.get(key, "") for key in keys if key != "seed"), []).append(own)
    means = [
        [*group, str(len(own)), *(_mean([member[key] for member in own if key in member]) for key in chosen)]
        for group, own in groups.items()
    ]
    return Sweep([*keys, "state", "step", *chosen], rows, means if "seed" in keys else [])


def write_sweep(folder: Path, sweep: Sweep) -> Path:
    """Writes `sweep.csv` and `sweep.html` into the sweep's folder, and returns the page's path."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([sweep.columns, *sweep.rows])
    write_atomically(folder / "sweep.csv", text.getvalue())
    finished = sum("finished" in row for row in sweep.rows)
    tables = [Samples("Members", tuple(sweep.columns), [tuple(row) for row in sweep.rows])]
    if sweep.means:
        tables.insert(0, Samples("Means over seeds", _mean_columns(sweep), [tuple(row) for row in sweep.means]))
    config = ReportConfig(
        title=f"Sweep {folder.name}", headline={"members": str(len(sweep.rows)), "finished": str(finished)}, samples=tables
    )
    write_atomically(folder / "sweep.html", render_report(folder / "no-run", config))
    return folder / "sweep.html"


def _mean_columns(sweep: Sweep) -> tuple[str, ...]:
    place = sweep.columns.index("state")
    return (*(key for key in sweep.columns[:place] if key != "seed"), "members", *sweep.columns[place + 2 :])


def _settings(member: Path) -> dict[str, str]:
    """What a member's folder says of it: `objective=gspo,seed=1`; a stage below it is a setting of its own."""
    found: dict[str, str] = {}
    for part in member.parts[0].split(",") if member.parts else []:
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        else:
            found["run"] = part
    if len(member.parts) > 1:
        found["stage"] = "/".join(member.parts[1:])
    return found


def _in_order(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.6g}"
    return mean if len(values) < 3 else f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.2g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (columns, *rows))


def _runs(arguments: argparse.Namespace) -> str:
    runs = find_runs(arguments.folder)
    rows = [[str(run.folder.relative_to(arguments.folder)), run.state, "" if run.step is None else str(run.step)] for run in runs]
    return _table(["run", "state", "step"], rows)


def _tail(arguments: argparse.Namespace) -> str:
    rows = read_rows(arguments.run / "metrics.jsonl")
    if not rows:
        raise UserError(f"{arguments.run} has no metrics.jsonl with a row in it: give the folder of a run")
    timings = {row["step"]: row for row in read_rows(arguments.run / "timings.jsonl")}
    return "\n".join(json.dumps({**row, **timings.get(row["step"], {})}) for row in rows[-arguments.lines :])


def _export(arguments: argparse.Namespace) -> str:
    folder, steps = export(arguments.run, arguments.output, arguments.step)
    return "\n".join([*(f"{name}  step {step}" for name, step in steps.items()), f"model  {folder}"])


def _sweep_report(arguments: argparse.Namespace) -> str:
    sweep = read_sweep(arguments.sweep, arguments.metrics.split(",") if arguments.metrics else None)
    page = write_sweep(arguments.sweep, sweep)
    told = _table(_mean_columns(sweep), sweep.means) if sweep.means else _table(sweep.columns, sweep.rows)
    return f"{told}\n\npage  {page}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="triptych", description="Runs and sweeps of Triptych.")
    commands = parser.add_subparsers(required=True, metavar="command")
    runs = commands.add_parser("runs", help="every run below a folder, and its state")
    runs.add_argument("folder", type=Path, nargs="?", default=Path("outputs"))
    runs.set_defaults(answer=_runs)
    tail = commands.add_parser("tail", help="the last rows of a run's metrics")
    tail.add_argument("run", type=Path)
    tail.add_argument("--lines", type=int, default=10)
    tail.set_defaults(answer=_tail)
    exporting = commands.add_parser("export", help="a model folder of a run's checkpoint, whatever strategy wrote it")
    exporting.add_argument("run", type=Path)
    exporting.add_argument("--output", type=Path, help="the model folder; without it 'export' in the run's folder")
    exporting.add_argument("--step", type=int, help="which checkpoint; without it the newest")
    exporting.set_defaults(answer=_export)
    report = commands.add_parser("sweep-report", help="one table and one page of a sweep")
    report.add_argument("sweep", type=Path)
    report.add_argument("--metrics", help="keys of summary.json, separated by commas")
    report.set_defaults(answer=_sweep_report)
    arguments = parser.parse_args()
    try:
        print(arguments.answer(arguments))
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else f"{error.filename} cannot be used ({error.strerror}): see its owner and its disk"
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
