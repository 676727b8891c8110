"""Weights & Biases tracker; offline by default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from triptych.errors import UserError
from triptych.telemetry.tracking.jsonl import read_rows

MODES = ("offline", "online", "disabled")


class WandbTracker:
    """One W&B run, kept in the run's own folder and continued under the same id after a resume.

    W&B cannot resume an offline run: of several uploads under one id the last one stays. A resumed offline run therefore
    starts with the rows of `metrics.jsonl`, so that its newest folder, `wandb/latest-run`, is complete.

    Args:
        directory: the run's folder; W&B writes below `wandb/` in it.
        run_id: stable identity of the run, so that a resumed run continues the same W&B run.
        name: display name.
        config: the resolved config, shown beside the curves.
        project: W&B project.
        mode: `offline` (default: no account, no network; upload later with `wandb sync wandb/latest-run`), `online` or `disabled`.

    Raises:
        UserError: if `mode` is none of these, or W&B cannot start.
    """

    def __init__(
        self,
        *,
        directory: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        project: str = "triptych",
        mode: str = "offline",
    ) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode is '{mode}': choose one of {', '.join(MODES)}")
        try:
            self._run = wandb.init(
                project=project,
                dir=str(directory),
                id=run_id,
                name=name,
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]  # checked above; W&B types it as a Literal
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(f"W&B could not start in mode {mode} ({error}): use tracker.mode=offline or run 'wandb login'") from error

        # An online run that W&B does not know yet may have rows as well: those before the step that `resume_step` went back to.
        if mode == "offline" or not self._run.resumed:
            timings = {row["step"]: row for row in read_rows(directory / "timings.jsonl")}
            for row in read_rows(directory / "metrics.jsonl"):
                self.log({key: value for key, value in (row | timings.get(row["step"], {})).items() if key != "step"}, step=row["step"])

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Passes the metrics to W&B."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Ends the W&B run."""
        self._run.finish()
