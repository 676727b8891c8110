"""Settings that every command has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.errors import UserError

RESUME_MODES = ("auto", "never", "must")


@dataclass
class RunConfig:
    """Settings that every command has, at the root of its config.

    Attributes:
        name: the run's identity; its folder is `<output_root>/<name>`. A relative path.
        seed: the one seed that all random streams derive from.
        output_root: folder that holds all runs.
        resume: `auto` goes on from the newest checkpoint if there is one, `must` refuses to start without one,
            `never` refuses to touch a folder that holds a run.
        resume_step: go on from this checkpoint instead of the newest; later results are set aside.
        overwrite: delete what an earlier run of this name left, and start over.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        timeout_seconds: how long a process waits for another before the run ends with an error.
        checkpoint: when checkpoints are written and how many stay.
        tracker: an extra tracker beside metrics.jsonl and the terminal, as a Hydra node; None for none.
        profile: write a trace of the third to the fifth step to `profile/`, one file per rank, for chrome://tracing or Perfetto,
            and how much of them was communication.
        peak_teraflops: 1e12 operations per second that model FLOPs utilisation is a share of; null for what is known of the device.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Former dotted keys and choices of a command, for its error message: key -> key, `group=choice` -> `group=choice`."""

    name: str = "run"
    seed: int = 0
    output_root: str = "outputs"
    resume: str = "auto"
    resume_step: int | None = None
    overwrite: bool = False
    device: str = "auto"
    timeout_seconds: float = 1800.0
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracker: Any = None
    profile: bool = False
    peak_teraflops: float | None = None

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).is_absolute() or ".." in Path(self.name).parts or self.name.strip() != self.name:
            raise UserError(f"name is '{self.name}': it must be a plain relative folder name")
        if self.resume not in RESUME_MODES:
            raise UserError(f"resume is '{self.resume}': choose one of {', '.join(RESUME_MODES)}")
        if self.peak_teraflops is not None and self.peak_teraflops <= 0:
            raise UserError(f"peak_teraflops is {self.peak_teraflops}: give what the device can do, in 1e12 operations per second")
