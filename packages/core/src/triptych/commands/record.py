"""`triptych record`: adds the results of finished runs to a claim in `experiments/`."""

import argparse
import json
from pathlib import Path
from typing import Any

from triptych.commands.main import Verbs
from triptych.errors import UserError
from triptych.files import read_json, write_atomically


def record(runs: list[Path], claim: Path) -> Path:
    """Writes `results.json` of a claim: one entry per run, with its summary and provenance.

    Entries of earlier runs of the same name are replaced; the others are kept.

    Returns:
        The path of `results.json`.

    Args:
        runs: folders of finished runs.
        claim: the claim's folder, `experiments/<panel>/<claim>`.

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
    claim.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    return path


def _record(arguments: argparse.Namespace) -> str:
    return str(record(arguments.runs, arguments.claim))


def register(verbs: Verbs) -> None:
    """Adds the subcommand `record`."""
    parser = verbs.add_parser("record", help="add the results of finished runs to the results.json of a claim")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("claim", type=Path, help="experiments/<panel>/<claim>")
    parser.set_defaults(answer=_record)
