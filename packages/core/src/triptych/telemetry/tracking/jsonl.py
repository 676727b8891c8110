"""metrics.jsonl: one JSON object per logged step. Always written; reports and tests read it."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from triptych.errors import UserError
from triptych.own_files import OwnFiles
from triptych.telemetry.logging import get_logger
from triptych.telemetry.tracking import TIMING_PREFIX

_logger = get_logger("tracking")


class JsonlTracker:
    """Appends to `metrics.jsonl`, and wall-clock metrics to `timings.jsonl`.

    The split keeps `metrics.jsonl` reproducible to the byte: a run that was killed and resumed writes the same
    file as an uninterrupted one.

    Args:
        own: the files of the run's folder.
        resume_step: step of the restored checkpoint; later lines, and a last line truncated by a kill, are
            dropped. None starts empty files.

    Raises:
        UserError: if a line before the last one is damaged; both files stay as they are.
    """

    def __init__(self, own: OwnFiles, *, resume_step: int | None = None) -> None:
        self._own = own
        self._files: dict[str, IO[str]] = {}
        names = ("metrics", "timings")
        kept = {name: [] if resume_step is None else read_rows(own.folder / f"{name}.jsonl") for name in names}
        for name in names:
            lines = [_line(row) for row in kept[name] if resume_step is not None and row["step"] <= resume_step]
            self._files[name] = own.open_log(f"{name}.jsonl", "".join(lines)).open("a", encoding="utf-8")

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
        """Closes both files, which count as edited if they change afterwards."""
        for name, file in self._files.items():
            try:
                file.close()
                self._own.close_log(f"{name}.jsonl")
            except OSError as error:  # every row was flushed when it was logged
                _logger.warning("%s.jsonl could not be closed (%s)", name, error.strerror)
        self._files = {}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file written by this tracker, without a last line that a kill truncated; empty for no file.

    Raises:
        UserError: if the file cannot be read, or a line is damaged; only a last line without its end may be.
    """
    try:
        # Not splitlines: JSON allows U+2028 and its like inside a string.
        *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk") from error
    rows = [_row(line) for line in lines]
    if None in rows:
        raise UserError(f"{path}, line {1 + rows.index(None)} is damaged: restore the file, or move it away together with its checkpoints")
    last = _row(rest)
    return [row for row in [*rows, last] if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """The object of a line; None if it is no row with a step."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _line(row: Mapping[str, Any]) -> str:
    # JSON has no NaN and no infinity; every reader accepts null.
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
