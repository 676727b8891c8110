"""What befalls a run from outside: a signal that asks it to stop, and a process that no longer moves."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupted(Exception):  # noqa: N818  # no error: the run did what it was asked to
    """A signal asked the run to stop, and its state is saved. Entry points tell it in one line and exit with 128 + signal."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}: the same command goes on from there")
        self.signal_number = signal_number


class Interruption:
    """Notes the signals that ask a run to stop, so that the loop can save before it does.

    SIGTERM is what schedulers and `kill` send; SIGUSR2 (or `$SUBMITIT_PREEMPT_SIGNAL`) is what Slurm sends before a time
    limit or a preemption on behalf of submitit, whose own handler asks Slurm to queue the job again. That handler is kept,
    and called once the state is saved. A second SIGTERM ends the process at once.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self.signal_number: int | None = None

    def install(self) -> None:
        """Takes over the signals; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        for number in (signal.SIGTERM, signal.Signals[f"SIG{name.removeprefix('SIG')}"]):
            # Asked for by name, or the interpreter's own handler would count as one to go back to.
            self._before[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def requeue(self, signal_number: int) -> None:
        """Calls the handler that a scheduler's launcher had set for the signal, if it had; it may not return."""
        handler: Callable[[int, FrameType | None], Any] | Any = self._before.get(signal_number)
        if callable(handler) and "SLURM_JOB_ID" in os.environ and signal_number != signal.SIGTERM:
            handler(signal_number, sys._getframe())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal_number = number


def watch(seconds: float) -> None:
    """Starts the watchdog, or tells it that this process is alive: no further call within `seconds` ends the process.

    Before that it prints what every thread was doing. It needs no cooperation of Python's: a process that hangs in a
    library, or holds the interpreter's lock, is ended as well. The ranks of a run hang together, as they wait for one
    another, so each prints its own part.
    """
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)


def unwatch() -> None:
    """Stops the watchdog."""
    faulthandler.cancel_dump_traceback_later()
