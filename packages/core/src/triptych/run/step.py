"""One step of a run's loop: its metrics, the guard of its weights, the evaluations after it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from triptych.checkpoint import Saveable


class Savable(Protocol):
    """Contract of what a step needs of its run."""

    def checkpoint(self, step: int, state: Mapping[str, Saveable]) -> None:
        """Commits `state` as the checkpoint of `step`."""
        ...

    def stop(self, step: int | None) -> NoReturn:
        """Ends the run after the checkpoint of `step` has been written."""
        ...


class Guard(Protocol):
    """Contract of guards, which decide whether the weights of a run may be saved.

    Attributes:
        is_sound: false after a step whose update was skipped; a due checkpoint is then postponed to a later step.
    """

    @property
    def is_sound(self) -> bool:
        """See the class."""
        ...

    def check(self, step: int) -> None:
        """Called before weights are saved or evaluated.

        Raises:
            UserError: if a weight is not finite.
        """
        ...


@dataclass(frozen=True)
class Evaluations:
    """Evaluations during a training.

    Attributes:
        evaluate: evaluates and returns metrics; called on every rank.
        every_steps: after each multiple of this many steps, and after the last step; 0 for the last step only.
    """

    evaluate: Callable[[], Mapping[str, float]]
    every_steps: int = 0


class Step:
    """One step of `Run.steps`.

    Attributes:
        number: 1-based.
        metrics: logged at the end of the step; nothing is logged while it is empty.
    """

    def __init__(self, number: int, run: Savable, state: Mapping[str, Saveable], guard: Guard | None) -> None:
        self.number = number
        self.metrics: dict[str, float] = {}
        self._run = run
        self._state = state
        self._guard = guard

    def stop(self) -> NoReturn:
        """Saves the state inside the step as the checkpoint of the previous step, and ends the run; see `Run.is_interrupted`.

        Raises:
            Interrupted: always.
        """
        if self._guard is not None and not self._guard.is_sound:
            self._guard.check(self.number)
        self._run.checkpoint(self.number - 1, self._state)
        self._run.stop(self.number - 1)
