"""Where the numbers of a run go."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from triptych.telemetry.logging import get_logger

_logger = get_logger("tracking")

TIMING_PREFIX = "timing/"
"""Metrics under this prefix are read off the clock: they differ between two runs of the same seed."""


class Tracker(Protocol):
    """A sink for numbers. Lives on rank 0 only."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Takes the numbers of one step; called at most once per step, with ascending steps."""
        ...

    def close(self) -> None:
        """Hands over whatever is buffered."""
        ...


class Trackers:
    """Several trackers as one. A tracker that fails while the run is under way warns once and is left out from then on.

    At the start there is no such mercy: a tracker that was asked for must be constructed, or the run does not begin.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hands `metrics` to every tracker that still works."""
        for tracker in list(self._trackers):
            try:
                tracker.log(metrics, step=step)
            except Exception as error:  # a boundary: losing a dashboard must not cost the run
                self._leave_out(tracker, error)

    def close(self) -> None:
        """Closes every tracker that still works."""
        for tracker in list(self._trackers):
            try:
                tracker.close()
            except Exception as error:
                self._leave_out(tracker, error)

    def _leave_out(self, tracker: Tracker, error: Exception) -> None:
        _logger.warning("tracker %s failed and is left out from here on: %s", type(tracker).__name__, error)
        self._trackers.remove(tracker)
