"""Terminal tracker: aligned rows, repeated headings, blank cells."""

import logging
from collections.abc import Iterator

import pytest

from triptych.telemetry.tracking.terminal import TerminalTracker


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.rows.append(record.getMessage())


@pytest.fixture
def rows() -> Iterator[list[str]]:
    """The logged rows, whether or not an earlier test has set up the toolkit's logging."""
    logger, collector = logging.getLogger("triptych"), Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    yield collector.rows
    logger.removeHandler(collector)
    logger.setLevel(level)


def test_cells_are_aligned_below_their_heading(rows: list[str]) -> None:
    tracker = TerminalTracker(["loss", "timing/rollout_tokens_per_second", "absent"])
    tracker.log({"loss": 0.123456, "timing/rollout_tokens_per_second": 12345.6, "other": 1.0}, step=7)
    tracker.log({"loss": -1234.5}, step=100)
    assert rows == [
        "  step       loss  rollout_tokens_per_second     absent",
        "     7     0.1235                      12346           ",
        "   100      -1234                                      ",
    ]


def test_the_heading_is_repeated(rows: list[str]) -> None:
    tracker = TerminalTracker(["loss"], heading_every=2)
    for step in range(5):
        tracker.log({"loss": 1.0}, step=step)
    headings = [index for index, row in enumerate(rows) if row.startswith("  step")]
    assert headings == [0, 3, 6]
    assert len(rows) == 8


def test_without_columns_nothing_is_printed(rows: list[str]) -> None:
    tracker = TerminalTracker([])
    tracker.log({"loss": 1.0}, step=1)
    tracker.close()
    assert rows == []
