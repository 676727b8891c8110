"""What befalls a run from outside: a signal that asks it to stop, and a process that no longer moves."""

import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

_SAME_SIGNAL_SECONDS = 3.0


class Interrupted(Exception):  # noqa: N818  # no error: the run did what it was asked to
    """A signal asked the run to stop, and its state is saved. Entry points tell it in one line and exit with 128 + signal."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}: the same command goes on from there")
        self.signal_number = signal_number


class Interruption:
    """Notes the signals that ask a run to stop, so that the loop can save before it does.

    SIGTERM is what `kill`, `scancel` and launchers send. SIGUSR2 (or `$SUBMITIT_PREEMPT_SIGNAL`) is what Slurm sends before
    a time limit or a preemption where submitit has asked for it; submitit's own handler, which has Slurm queue the job again,
    is kept, and called once the state is saved. A preemption sends both, so the second counts. Another SIGTERM some seconds
    after the first ends the process at once, unless the job is about to be queued again; sooner it is the same one, which a
    launcher has handed on.

    Attributes:
        signal_number: what this process, or another of the run, was asked by; 0 for nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._preemption = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2').removeprefix('SIG')}"]
        self.signal_number = 0
        self._asked_at: float | None = None  # this process itself, by SIGTERM

    def install(self) -> None:
        """Takes over the signals; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, self._preemption)}

    def remove(self, *, deliver: bool = False) -> None:
        """Gives the signals back to whoever had them; with `deliver`, one that was noted and not acted upon as well."""
        noted, had_them = self.signal_number, bool(self._before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if deliver and noted and had_them:
            self.signal_number = 0
            signal.raise_signal(noted)

    def priority(self, number: int) -> int:
        """How much a signal weighs among those of all processes: 0 for none, then SIGTERM, then the preemption's."""
        return 2 if number == self._preemption else int(number != 0)

    def of_priority(self, priority: int) -> int:
        """The signal of a weight."""
        return (0, int(signal.SIGTERM), int(self._preemption))[priority]

    def requeue(self) -> None:
        """Calls the handler that a scheduler's launcher had set for a preemption, if one was noted; it does not return then."""
        handler = self._before.get(self._preemption)
        if self.signal_number == self._preemption and callable(handler):
            handler(self._preemption, sys._getframe())
            time.sleep(120)  # one task asks the scheduler; the others wait to be ended by it

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            if self._asked_at is None:
                self._asked_at = time.monotonic()
            elif time.monotonic() - self._asked_at > _SAME_SIGNAL_SECONDS and not callable(self._before.get(self._preemption)):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        self.signal_number = self.of_priority(max(self.priority(number), self.priority(self.signal_number)))


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
