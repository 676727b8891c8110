"""Keeps what a finished run came to: `python -m triptych.record <run folder>... <experiments folder>`."""

import json
import sys
from pathlib import Path
from typing import Any

from triptych.checkpoint import write_atomically
from triptych.errors import UserError


def record(runs: list[Path], claim: Path) -> Path:
    """Writes `results.json` of a claim: one entry per run, with its summary and provenance.

    Entries of runs recorded earlier under the same name are replaced; the others stay.

    Args:
        runs: folders of finished runs.
        claim: the claim's folder, `experiments/<panel>/<claim>`.

    Raises:
        UserError: if a run is not finished.
    """
    path = claim / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for run in runs:
        if not (run / "summary.json").exists():
            raise UserError(f"{run} holds no summary.json: it is no finished run")
        results[run.name] = {
            "summary": json.loads((run / "summary.json").read_text()),
            "provenance": json.loads((run / "provenance.json").read_text()),
        }
    claim.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    return path


def main() -> None:
    """The command."""
    if len(sys.argv) < 3:
        print("usage: python -m triptych.record <run folder>... <claim folder>", file=sys.stderr)
        sys.exit(2)
    try:
        print(record([Path(argument) for argument in sys.argv[1:-1]], Path(sys.argv[-1])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
