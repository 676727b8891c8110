"""metrics.jsonl: one JSON object per logged step. Always written; reports and tests read it."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from triptych.files import write_atomically
from triptych.telemetry.tracking import TIMING_PREFIX


class JsonlTracker:
    """Appends to `metrics.jsonl`, and wall-clock metrics to `timings.jsonl`.

    The split keeps `metrics.jsonl` reproducible to the byte: a run that was killed and resumed writes the same
    file as an uninterrupted one.

    Args:
        directory: the run's folder.
        resume_step: step of the restored checkpoint; later lines, and a last line truncated by a kill, are
            dropped. None starts empty files.
    """

    def __init__(self, directory: Path, *, resume_step: int | None = None) -> None:
        self._files: dict[str, IO[str]] = {}
        for name in ("metrics", "timings"):
            path = directory / f"{name}.jsonl"
            kept = [] if resume_step is None else [row for row in read_rows(path) if row["step"] <= resume_step]
            write_atomically(path, "".join(_line(row) for row in kept))
            self._files[name] = path.open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Appends one line to each file; the keys keep their order, `step` comes first."""
        reproducible = {key: value for key, value in metrics.items() if not key.startswith(TIMING_PREFIX)}
        timings = {key: value for key, value in metrics.items() if key.startswith(TIMING_PREFIX)}
        for name, row in (("metrics", reproducible), ("timings", timings)):
            if row:
                self._files[name].write(_line({"step": step, **row}))
                self._files[name].flush()

    def sync(self) -> None:
        """Forces all lines to disk; called before a checkpoint is committed, so that no checkpoint is newer than they are."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes both files."""
        for file in self._files.values():
            file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file written by this tracker; stops at a line that a kill truncated."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    # JSON has no NaN and no infinity; every reader accepts null.
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
