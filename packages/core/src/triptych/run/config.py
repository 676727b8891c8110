"""Settings that every command has."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.errors import UserError

NestedT = TypeVar("NestedT", bound="RunConfig")

RESUME_MODES = ("auto", "never", "must")

# Below output_root: names of folders that are no run's, and of what a run keeps in its own folder.
_RESERVED = ("cache", "checkpoints", "model_files")
_LONGEST_PART = 255  # bytes, of file systems


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
        overwrite: start over; replaces the files that an earlier run of this name wrote, keeps edited ones aside, and leaves others.
        changed: dotted keys of settings that differ from those of the run so far on purpose, such as `task.path`; logged at their step.
        allowed_targets: packages, such as `mylab`, or dotted names from which a `_target_` may be taken besides the packages of this
            command; null for all.
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
    changed: list[str] = field(default_factory=list)
    allowed_targets: list[str] | None = None
    device: str = "auto"
    timeout_seconds: float = 1800.0
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracker: Any = None
    profile: bool = False
    peak_teraflops: float | None = None

    def __post_init__(self) -> None:
        reason = refused_name(self.name)
        if reason is not None:
            raise UserError(f"name is {self.name!r}, which {reason}: choose a relative folder name")
        if self.resume not in RESUME_MODES:
            raise UserError(f"resume is '{self.resume}': choose one of {', '.join(RESUME_MODES)}")
        if self.peak_teraflops is not None and self.peak_teraflops <= 0:
            raise UserError(f"peak_teraflops is {self.peak_teraflops}: it must be above 0, in 1e12 operations per second")

    def nested(self, kind: type[NestedT], name: str, **settings: Any) -> NestedT:
        """A config of the run `<name of this run>/<name>`, with this run's settings where `settings` has no others."""
        own = {item.name: getattr(self, item.name) for item in fields(RunConfig)}
        return kind(**{**own, "name": f"{self.name}/{name}", **settings})


def refused_name(name: str) -> str | None:
    """What makes a run's name unusable, in words that follow "which"; None for a good one.

    Example:
        >>> refused_name("ablation/seed=1"), refused_name("a/../b"), refused_name("cache")
        (None, 'leaves its folder', "has the reserved part 'cache'")
    """
    parts = Path(name).parts
    if not parts or name.strip() != name:
        return "is empty or has surrounding spaces"
    if Path(name).is_absolute() or ".." in parts:
        return "leaves its folder"
    if not name.isprintable():
        return "has a control character"
    for part in parts:
        if part in _RESERVED or part.startswith("."):
            return f"has the reserved part '{part}'"
        if len(part.encode(errors="surrogateescape")) > _LONGEST_PART:
            return f"has a part of more than {_LONGEST_PART} bytes"
    return None
