"""Signal handling (SIGTERM, Slurm preemption) and a watchdog for hung processes."""

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from triptych.telemetry.logging import get_logger

_logger = get_logger("signals")

_SAME_SIGNAL_SECONDS = 3.0
_SCHEDULER_SECONDS = 120.0
_FEED_SECONDS = 1.0
_watchdog: dict[str, float] = {}  # of this process: its seconds, and when it was started


class Interrupted(Exception):  # noqa: N818  # no error: the run did what it was asked to
    """The run was stopped by a signal and its state is saved. Entry points report it in one line and exit with 128 + signal."""

    def __init__(self, signal_number: int, step: int | None) -> None:
        when = "before the first checkpoint: rerun the same command to start again"
        if step is not None:
            when = f"after step {step}: rerun the same command to resume"
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {when}")
        self.signal_number = signal_number


class Interruption:
    """Records the signals that stop a run, so that the loop can save its state first.

    SIGTERM is sent by `kill`, `scancel` and launchers. SIGUSR2 (or `$SUBMITIT_PREEMPT_SIGNAL`) is sent by Slurm before a time
    limit or a preemption, if submitit has configured it; submitit's own handler, which requeues the job, is kept and called
    once the state is saved. A preemption sends both, and the preemption signal has priority. A second SIGTERM within some
    seconds is the first one, forwarded by a launcher; a later one ends the process at once, unless the job is about to be
    requeued.

    Attributes:
        signal_number: the signal received by this process or another one of the run; 0 for none.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._preemption = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2').removeprefix('SIG')}"]
        self.signal_number = 0
        self._received_at: float | None = None  # SIGTERM, by this process

    def install(self) -> None:
        """Installs the handlers; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, self._preemption)}

    def remove(self, *, deliver: bool = False) -> None:
        """Restores the previous handlers; with `deliver`, raises a signal that was recorded and not handled yet."""
        received, was_installed = self.signal_number, bool(self._before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if deliver and received and was_installed:
            self.signal_number = 0
            signal.raise_signal(received)

    def priority(self, number: int) -> int:
        """Order of the signals of all processes: 0 for none, 1 for SIGTERM, 2 for a preemption."""
        return 2 if number == self._preemption else int(number != 0)

    def of_priority(self, priority: int) -> int:
        """The signal of a priority."""
        return (0, int(signal.SIGTERM), int(self._preemption))[priority]

    def requeue(self, leave: Callable[[], None]) -> None:
        """Calls the preemption handler of the scheduler's launcher if a preemption was recorded; the scheduler ends the process then.

        At the end of its grace time the scheduler requeues the job by itself and sends SIGTERM to every process of it, also to
        the handler's own command (`scontrol requeue`): that command ignores SIGTERM, and its failure is a warning.

        Args:
            leave: called first; releases what the requeued job needs.
        """
        handler = self._before.get(self._preemption)
        if self.signal_number == self._preemption and callable(handler):
            leave()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # child processes inherit it
            try:
                handler(self._preemption, sys._getframe())
            except subprocess.SubprocessError as error:
                _logger.warning("the job was not requeued by this process (%s): waiting for the scheduler", error)
            time.sleep(_SCHEDULER_SECONDS)  # one task requeues the job; the others wait until the scheduler ends them

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            if self._received_at is None:
                self._received_at = time.monotonic()
            elif time.monotonic() - self._received_at > _SAME_SIGNAL_SECONDS and not callable(self._before.get(self._preemption)):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        self.signal_number = self.of_priority(max(self.priority(number), self.priority(self.signal_number)))


def watch(seconds: float) -> None:
    """Starts or restarts the watchdog: without another call within `seconds` it prints all stacks and ends the process.

    It runs in a C thread, so it also ends a process that hangs in a library or holds the interpreter's lock. The ranks of
    a run hang together, since they wait for one another; each prints its own stacks.
    """
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
        _watchdog.update(seconds=seconds, started=time.monotonic())


def feed_watchdog() -> None:
    """Restarts a running watchdog: work inside a step has made progress, such as a token of every sequence. Cheap; does not start one."""
    if _watchdog and time.monotonic() - _watchdog["started"] > _FEED_SECONDS:
        watch(_watchdog["seconds"])


def unwatch() -> None:
    """Stops the watchdog."""
    faulthandler.cancel_dump_traceback_later()
    _watchdog.clear()
