"""Settings that every command has."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.errors import UserError

NestedT = TypeVar("NestedT", bound="RunConfig")

RESUME_MODES = ("auto", "never", "must")


@dataclass
class RunConfig:
    """Settings that every command has, at the root of its config.

    Attributes:
        name: the run's identity; its folder is `<output_root>/<name>`. A relative path.
        seed: the one seed that all random streams derive from.
        output_root: folder that holds all runs.
        resume: `auto` resumes from the newest checkpoint if there is one, `must` refuses to start without one,
            `never` refuses a folder that holds a run.
        resume_step: resume from this checkpoint instead of the newest; later results are set aside.
        overwrite: delete the files of an earlier run of this name, and start over.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        timeout_seconds: how long a process waits for another before the run ends with an error.
        checkpoint: when checkpoints are written and how many are kept.
        tracker: Hydra node of a tracker in addition to metrics.jsonl and the terminal; None for none.
        profile: write a trace of the third to the fifth step to `profile/`, one file per rank, for chrome://tracing or Perfetto,
            with a summary of communication time.
        peak_teraflops: peak of the device for model FLOPs utilisation, in 1e12 operations per second; null to look it up by name.
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
            raise UserError(f"name is '{self.name}': choose a relative folder name without .. and surrounding spaces")
        if self.resume not in RESUME_MODES:
            raise UserError(f"resume is '{self.resume}': choose one of {', '.join(RESUME_MODES)}")
        if self.peak_teraflops is not None and self.peak_teraflops <= 0:
            raise UserError(f"peak_teraflops is {self.peak_teraflops}: it must be above 0, in 1e12 operations per second")

    def nested(self, kind: type[NestedT], name: str, **settings: Any) -> NestedT:
        """A config of the run `<name of this run>/<name>`, with this run's settings where `settings` has no others."""
        own = {item.name: getattr(self, item.name) for item in fields(RunConfig)}
        return kind(**{**own, "name": f"{self.name}/{name}", **settings})
