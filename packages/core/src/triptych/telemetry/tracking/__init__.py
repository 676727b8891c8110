"""Contract of trackers, and a fan-out to several."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from triptych.telemetry.logging import get_logger

_logger = get_logger("tracking")

TIMING_PREFIX = "timing/"
"""Prefix of wall-clock metrics, which differ between two runs of the same seed."""


class Tracker(Protocol):
    """A sink for metrics. Exists on rank 0 only."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Records the metrics of one step; called at most once per step, with ascending steps."""
        ...

    def close(self) -> None:
        """Flushes buffers and releases resources."""
        ...


class Trackers:
    """Several trackers as one. A tracker that fails during the run is dropped with one warning.

    Failing to construct a configured tracker is an error instead, and the run does not start.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Passes `metrics` to every tracker that has not failed."""
        for tracker in list(self._trackers):
            try:
                tracker.log(metrics, step=step)
            except Exception as error:  # a boundary: losing a dashboard must not cost the run
                self._drop(tracker, error)

    def close(self) -> None:
        """Closes every tracker that has not failed."""
        for tracker in list(self._trackers):
            try:
                tracker.close()
            except Exception as error:
                self._drop(tracker, error)

    def _drop(self, tracker: Tracker, error: Exception) -> None:
        _logger.warning("tracker %s failed and is disabled for the rest of the run: %s", type(tracker).__name__, error)
        self._trackers.remove(tracker)
