"""What a run says on the terminal: logging set up once, and progress bars that vanish where nobody watches."""

import logging
import sys
from typing import Any

from tqdm.auto import tqdm

_ROOT = "triptych"


def get_logger(name: str) -> logging.Logger:
    """A logger below the toolkit's root logger, so that a notebook can silence all of it at once."""
    return logging.getLogger(f"{_ROOT}.{name}")


class _AboveTheBar(logging.Handler):
    """Prints messages above a live progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def setup_logging(rank: int, *, world_size: int) -> None:
    """Sends the toolkit's messages to standard output; ranks above 0 speak only from WARNING on.

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
    """A progress bar with rate and time left on standard error; silent unless that is a terminal.

    Args:
        total: number of units in the whole phase.
        description: what is going on, shown before the bar.
        unit: the field's word for one unit.
        initial: units already done, for a resumed phase.
        enabled: false silences the bar in any case (ranks above 0).
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
