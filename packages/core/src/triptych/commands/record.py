"""`triptych record`: adds the results of finished runs to a claim in `experiments/`."""

import argparse
import json
from pathlib import Path
from typing import Any

from triptych.commands.main import Verbs
from triptych.errors import UserError
from triptych.files import read_json, write_atomically
from triptych.telemetry.tracking.jsonl import read_rows


def record(runs: list[Path], claim: Path, curves: list[str] | None = None) -> Path:
    """Writes `results.json` of a claim: one entry per run, with its summary, provenance and chosen curves.

    Entries of earlier runs of the same name are replaced; the others are kept.

    Returns:
        The path of `results.json`.

    Args:
        runs: folders of finished runs.
        claim: the claim's folder, `experiments/<panel>/<claim>`.
        curves: metrics whose values over the steps are kept, such as `reward/mean`.

    Raises:
        UserError: if a run is not finished.
    """
    path = claim / "results.json"
    results: dict[str, Any] = read_json(path, "restore it") if path.exists() else {}
    for run in runs:
        if not (run / "summary.json").exists():
            raise UserError(f"{run} holds no summary.json: give the folder of a finished run")
        results[run.name] = {
            "summary": read_json(run / "summary.json", "give the folder of a finished run"),
            "provenance": read_json(run / "provenance.json", "give the folder of a finished run"),
        }
        if curves:
            rows = read_rows(run / "metrics.jsonl")
            found = {name: [[row["step"], row[name]] for row in rows if row.get(name) is not None] for name in curves}
            unknown = next((name for name, points in found.items() if not points), None)
            if unknown is not None:
                raise UserError(f"{run / 'metrics.jsonl'} has no metric '{unknown}': give one that the run logged")
            results[run.name]["curves"] = found
    claim.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    return path


def _record(arguments: argparse.Namespace) -> str:
    return str(record(arguments.runs, arguments.claim, arguments.curve))


def register(verbs: Verbs) -> None:
    """Adds the subcommand `record`."""
    parser = verbs.add_parser("record", help="add the results of finished runs to the results.json of a claim")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("claim", type=Path, help="experiments/<panel>/<claim>")
    parser.add_argument("--curve", action="append", help="a metric whose values over the steps are kept, such as reward/mean; repeatable")
    parser.set_defaults(answer=_record)
