"""Tracker that logs one aligned row per step."""

from collections.abc import Mapping, Sequence

from triptych.telemetry.logging import get_logger

_logger = get_logger("run")


class TerminalTracker:
    """Logs selected metrics of each step as an aligned row, under a heading that is repeated.

    Args:
        columns: metric names to show, in order; a missing metric is left blank. Empty for no rows.
        heading_every: number of rows between two headings.
    """

    def __init__(self, columns: Sequence[str], *, heading_every: int = 25) -> None:
        self._columns = list(columns)
        self._heading_every = heading_every
        self._rows = 0

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Logs one row."""
        if not self._columns:
            return
        if self._rows % self._heading_every == 0:
            _logger.info("%6s  %s", "step", "  ".join(f"{_short(name):>{_width(name)}}" for name in self._columns))
        self._rows += 1
        cells = (f"{_number(metrics.get(name)):>{_width(name)}}" for name in self._columns)
        _logger.info("%6d  %s", step, "  ".join(cells))

    def close(self) -> None:
        """Does nothing: no rows are buffered."""


def _short(name: str) -> str:
    return name.removeprefix("timing/")


def _width(name: str) -> int:
    return max(9, len(_short(name)))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
