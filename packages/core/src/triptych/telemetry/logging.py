"""Loggers below one root, their output on the terminal, and progress bars."""

import logging
import sys
from typing import Any

from tqdm.auto import tqdm

_ROOT = "triptych"


def get_logger(name: str) -> logging.Logger:
    """A logger below the toolkit's root logger, so that a notebook can silence all of them at once."""
    return logging.getLogger(f"{_ROOT}.{name}")


class _AboveTheBar(logging.Handler):
    """Prints messages above a live progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def setup_logging(rank: int, *, world_size: int) -> None:
    """Sends the toolkit's messages to standard output; ranks above 0 log from WARNING on.

    Called by entry points, never at import. A second call replaces the first.
    """
    root = logging.getLogger(_ROOT)
    root.handlers.clear()
    handler = _AboveTheBar()
    prefix = f"[rank {rank}] " if world_size > 1 else ""
    handler.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    root.propagate = False


def progress(total: int, description: str, *, unit: str = "step", initial: int = 0, enabled: bool = True) -> "tqdm[Any]":
    """A progress bar with rate and remaining time on standard error; hidden unless that is a terminal.

    Args:
        total: number of units in the whole phase.
        description: label of the bar.
        unit: name of one unit.
        initial: units already done, for a resumed phase.
        enabled: false hides the bar in any case (ranks above 0).
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        disable=None if enabled else True,  # None: tqdm shows the bar only on a terminal
        leave=False,
        dynamic_ncols=True,
    )
