"""Logging: levels and prefixes by rank, one handler, and progress bars that need a terminal."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from triptych.telemetry.logging import get_logger, progress, setup_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger("triptych")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def messages(capsys: pytest.CaptureFixture[str], rank: int, world_size: int) -> list[str]:
    setup_logging(rank, world_size=world_size)
    logger = get_logger("part.inner")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logger.log(level, "value %d", level)
    out, err = capsys.readouterr()
    assert err == ""
    return str(out).splitlines()


@pytest.mark.parametrize(
    ("rank", "world_size", "expected"),
    [
        (0, 1, ["value 20", "value 30"]),
        (0, 2, ["[rank 0] value 20", "[rank 0] value 30"]),
        (1, 2, ["[rank 1] value 30"]),
    ],
)
def test_rank_0_logs_info_and_the_others_warnings(
    capsys: pytest.CaptureFixture[str], rank: int, world_size: int, expected: list[str]
) -> None:
    assert messages(capsys, rank, world_size) == expected


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    messages(capsys, 1, 2)
    assert messages(capsys, 0, 1) == ["value 20", "value 30"], "no message is printed twice"


def test_one_logger_silences_the_toolkit(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0, world_size=1)
    logging.getLogger("triptych").setLevel(logging.ERROR)
    get_logger("part").warning("hidden")
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "enabled", "shown"), [(Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)]
)
def test_a_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, enabled: bool, shown: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(10, "training", initial=4, enabled=enabled) as bar:
        bar.update()
    assert ("training" in stream.getvalue()) == shown
    if shown:
        assert "4/10" in stream.getvalue(), "a resumed phase starts at its initial count"
