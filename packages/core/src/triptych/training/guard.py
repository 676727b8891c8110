"""Divergence guard: counts optimizer steps without a finite gradient and ends a run after several in a row."""

import json
from pathlib import Path

import torch

from triptych.errors import UserError
from triptych.files import write_atomically
from triptych.run.session import Run
from triptych.strategy import StepReport, Strategy


class DivergenceGuard:
    """Counts skipped optimizer steps in a row and keeps non-finite weights out of checkpoints; a component of the checkpoint.

    Args:
        run: names the last good checkpoint in error messages.
        strategy: holds the weights.
        max_skipped: skipped optimizer steps in a row that end the run.

    Attributes:
        num_skipped: skipped optimizer steps in a row.
    """

    def __init__(self, run: Run, strategy: Strategy, *, max_skipped: int) -> None:
        self.num_skipped = 0
        self._run = run
        self._strategy = strategy
        self._max_skipped = max_skipped

    @property
    def is_sound(self) -> bool:
        """False after a skipped step: its weights may already be non-finite, so the last good checkpoint stays the newest."""
        return self.num_skipped == 0

    def count(self, report: StepReport, *, where: str) -> None:
        """Counts one optimizer step.

        Args:
            report: of `Strategy.step`.
            where: the position in the run, for the message, such as `step 3`.

        Raises:
            UserError: after `max_skipped` skipped steps in a row.
        """
        self.num_skipped = self.num_skipped + 1 if report.skipped else 0
        if self.num_skipped >= self._max_skipped:
            raise self._diverged(f"the gradient is not finite for {self.num_skipped} optimizer steps in a row at {where}")

    def check(self, step: int) -> None:
        """Refuses to save or evaluate weights that are not finite.

        Raises:
            UserError: if a weight is not finite.
        """
        if not all(bool(torch.isfinite(parameter).all()) for _, parameter in self._strategy.full_parameters()):
            raise self._diverged(f"a weight is not finite at step {step}")

    def save(self, directory: Path) -> None:
        """Writes the count into `directory`."""
        if self._run.world.is_main:
            write_atomically(directory / "guard.json", json.dumps({"num_skipped": self.num_skipped}))

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        self.num_skipped = json.loads((directory / "guard.json").read_text())["num_skipped"]

    def _diverged(self, what: str) -> UserError:
        steps = self._run.checkpoint_steps
        kept = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint"
        return UserError(f"{what}: training has stopped and {kept}; lower optimizer.learning_rate")
