"""`triptych sweep-report`: a sweep as one table and one HTML page."""

import argparse
import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.commands.main import Verbs
from triptych.commands.runs import find_runs, text_table
from triptych.errors import UserError
from triptych.own_files import OwnFiles
from triptych.report import ReportConfig, Samples
from triptych.report.render import render_report


@dataclass(frozen=True)
class Sweep:
    """A sweep's members as a table.

    Attributes:
        columns: the settings that differ among the members, `state`, `step`, and the metrics.
        rows: one per member, in order; missing values are empty.
        means: one row per group of members that differ in the seed only: mean and, of three or more, standard error.
    """

    columns: list[str]
    rows: list[list[str]]
    means: list[list[str]]


def read_sweep(folder: Path, metrics: Sequence[str] | None = None) -> Sweep:
    """Reads the table of a sweep from the folders of its members.

    Args:
        folder: the sweep's folder, `<output_root>/<name>`; each run below it is a member, named by its overrides.
        metrics: keys of `summary.json`, such as `accuracy_after`; None for all numbers.

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
    # Finished members that agree in all settings but the seed form one group: settings -> summaries.
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
    own = OwnFiles(folder)
    own.write("sweep.csv", text.getvalue())
    finished = sum("finished" in row for row in sweep.rows)
    tables = [Samples("Members", tuple(sweep.columns), [tuple(row) for row in sweep.rows])]
    if sweep.means:
        tables.insert(0, Samples("Means over seeds", _mean_columns(sweep), [tuple(row) for row in sweep.means]))
    config = ReportConfig(
        title=f"Sweep {folder.name}", headline={"members": str(len(sweep.rows)), "finished": str(finished)}, samples=tables
    )
    return own.write("sweep.html", render_report(folder / "no-run", config))


def _mean_columns(sweep: Sweep) -> tuple[str, ...]:
    state = sweep.columns.index("state")
    return (*(key for key in sweep.columns[:state] if key != "seed"), "members", *sweep.columns[state + 2 :])


def _settings(member: Path) -> dict[str, str]:
    """Settings of a member from its folder name, `objective=gspo,seed=1`; a stage below it becomes the setting `stage`."""
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


def _sweep_report(arguments: argparse.Namespace) -> str:
    sweep = read_sweep(arguments.sweep, arguments.metrics.split(",") if arguments.metrics else None)
    page = write_sweep(arguments.sweep, sweep)
    table = text_table(_mean_columns(sweep), sweep.means) if sweep.means else text_table(sweep.columns, sweep.rows)
    return f"{table}\n\npage  {page}"


def register(verbs: Verbs) -> None:
    """Adds the subcommand `sweep-report`."""
    parser = verbs.add_parser("sweep-report", help="write one table and one HTML page of a sweep")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--metrics", help="keys of summary.json, separated by commas")
    parser.set_defaults(answer=_sweep_report)
