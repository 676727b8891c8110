"""One run: its folder, identity, trackers and checkpoints, opened and closed together."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
import yaml

from triptych.checkpoint import CheckpointConfig, Checkpointer, Saveable, write_atomically
from triptych.console import get_logger, setup_logging
from triptych.distributed import World
from triptych.errors import UserError
from triptych.export import Exportable
from triptych.flops import device_peak
from triptych.interruption import Interrupted, Interruption, unwatch, watch
from triptych.profiling import start_profiler
from triptych.provenance import provenance
from triptych.report.render import ReportConfig, render_report
from triptych.seeding import GlobalRandomState, derive_seed
from triptych.tracking import Tracker, Trackers
from triptych.tracking.jsonl import JsonlTracker
from triptych.tracking.terminal import TerminalTracker

_logger = get_logger("run")

RESUME_MODES = ("auto", "never", "must")

# What may differ between two invocations that are still the same run: none of these touches a number.
_NOT_IDENTITY = (
    "resume",
    "resume_step",
    "overwrite",
    "output_root",
    "device",
    "tracker",
    "checkpoint",
    "timeout_seconds",
    "report",
    "profile",
    "peak_teraflops",
)


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


class Run:
    """The folder `<output_root>/<name>` of one run, and everything that writes into it.

    Rank 0 writes; every method may be called on every rank. Use `Run.open`.

    Attributes:
        directory: the run's folder.
        world: the processes of this run.
        seed: the run's seed.
    """

    def __init__(
        self, config: RunConfig, world: World, *, budget_keys: tuple[str, ...] = (), tracker: Callable[..., Tracker] | None = None
    ) -> None:
        self.world = world
        self.seed = config.seed
        self.directory = Path(config.output_root) / config.name
        self._config = config
        self._resolved = _plain(config)
        self._budget_keys = budget_keys
        self._build_tracker = tracker
        self._checkpointer = Checkpointer(
            self.directory / "checkpoints", world, keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
        )
        self._random_state = GlobalRandomState(world.rank)
        self._interruption = Interruption()
        self._profiler: torch.profiler.profile | None = None
        self._trackers = Trackers([])
        self._jsonl: JsonlTracker | None = None
        self._created: list[Path] = []
        self._overwrites = config.overwrite
        self._lock_descriptor: int | None = None

    @classmethod
    @contextmanager
    def open(cls, config: RunConfig, *, budget_keys: tuple[str, ...] = (), tracker: Callable[..., Tracker] | None = None) -> Iterator[Self]:
        """Joins the other processes, claims the run's folder and checks that it belongs to this config.

        Nothing is written or overwritten before `begin`, apart from the folder and its lock, and both go again if
        the run ends before `begin`.

        Args:
            config: the run's settings.
            budget_keys: dotted keys that may grow between two invocations of one run (`trainer.max_steps`).
            tracker: builds a tracker beside metrics.jsonl and the terminal, from keyword arguments `directory`,
                `run_id`, `name` and `config`.

        Raises:
            UserError: if the folder holds a run of another config (the first key that differs is named), belongs
                to a process that is alive, cannot be written, or contradicts `resume`.
        """
        with World.join(config.device, timeout_seconds=config.timeout_seconds) as world:
            setup_logging(world.rank, world_size=world.size)
            # Dropout and the like draw from the global stream; a checkpoint restores it.
            torch.manual_seed(derive_seed(config.seed, "global", world.rank))
            run = cls(config, world, budget_keys=budget_keys, tracker=tracker)
            try:
                with world.main_first() as is_main:
                    if is_main:
                        run._claim()
                yield run
                run.wait_for_checkpoint()
            finally:
                run._close()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.world.device

    def peak_flops(self, precision: str) -> float | None:
        """Operations per second that this rank's device could do in `precision`; None where nobody knows."""
        return device_peak(self.device, precision, self._config.peak_teraflops)

    @property
    def cache_directory(self) -> Path:
        """A folder shared by all runs below `output_root`, for results that depend on their own inputs alone."""
        return Path(self._config.output_root) / "cache"

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps of the complete checkpoints of this run; none of those that `overwrite` is about to delete."""
        if self._overwrites:
            return []
        self._checkpointer.wait()
        return self._checkpointer.steps()

    def is_finished(self, step: int) -> bool:
        """Whether an earlier invocation came to `step` and wrote its summary, and nothing asks to go back before it."""
        steps = self.checkpoint_steps
        summary = (self.directory / "summary.json").exists()
        return summary and bool(steps) and steps[-1] >= step and self._config.resume_step in (None, steps[-1])

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step`."""
        return step % self._config.checkpoint.every_steps == 0

    def begin(self, state: Mapping[str, Saveable], *, columns: tuple[str, ...] = (), exportable: Exportable | None = None) -> int | None:
        """Restores the newest checkpoint into `state`, writes config and provenance, and starts the trackers.

        Args:
            state: the components of the run's checkpoints by name.
            columns: metrics that the terminal shows.
            exportable: what makes the checkpoints a model, for `triptych export`.

        Returns:
            The step of the restored checkpoint, or None for a fresh start.
        """
        if self._overwrites:
            with self.world.main_first() as is_main:
                if is_main:
                    self._empty()
            self._overwrites = False
        step = self._checkpointer.restore(self._with_random_state(state), self._config.resume_step)
        if self.world.is_main:
            for result in ("summary.json", "report.html"):  # of an earlier, shorter or later time: not what this run comes to
                (self.directory / result).unlink(missing_ok=True)
            write_atomically(self.directory / "config.yaml", yaml.safe_dump(self._resolved, sort_keys=False))
            write_atomically(self.directory / "provenance.json", json.dumps(provenance(), indent=1))
            if exportable is not None:
                exportable.leave(self.directory)
            self._jsonl = JsonlTracker(self.directory, resume_step=step)
            trackers: list[Tracker] = [TerminalTracker(columns)]
            if self._build_tracker is not None:
                run_id = f"{derive_seed(self.seed, str(self.directory.resolve())):016x}"
                trackers.append(self._build_tracker(directory=self.directory, run_id=run_id, name=self._config.name, config=self._resolved))
            self._trackers = Trackers(trackers)
        self._created = []
        if self._config.profile:
            self._profiler = start_profiler(self.directory / "profile", self.world.rank, self.device)
        if step is not None:
            _logger.info("going on from step %d (%s)", step, self._checkpointer.path(step))
        return step

    def end_step(self) -> None:
        """Tells the profiler, where there is one, that a step is over."""
        if self._profiler is not None:
            self._profiler.step()

    def rest(self) -> None:
        """Calls the watchdog off until the next `is_interrupted`: what follows may take longer than any step."""
        unwatch()

    def note_signals(self) -> None:
        """Begins a loop that asks `is_interrupted`: until `wait_for_checkpoint` signals are noted for it to tell.

        Before and after they end the process as they always do. The watchdog begins to watch.
        """
        self._interruption.install()
        watch(self._config.timeout_seconds)

    def is_interrupted(self) -> bool:
        """Whether a signal has asked any rank to stop; the same answer on every rank. To be asked on all of them, once a step.

        A call also shows the watchdog that this process moves: `timeout_seconds` without another one or `rest` end the
        process, with the stacks of its threads on standard error.
        """
        watch(self._config.timeout_seconds)
        interruption = self._interruption
        if self.world.size > 1:
            interruption.signal_number = interruption.of_rank(max(self.world.gather_numbers(interruption.rank(interruption.signal_number))))
        return interruption.signal_number != 0

    def stop(self, step: int) -> NoReturn:
        """Ends an interrupted run whose checkpoint of `step` has been written; a scheduler that can is asked to queue it again.

        Raises:
            Interrupted: always, unless the scheduler's launcher ends the process itself.
        """
        self.rest()
        self._checkpointer.wait()
        self.world.barrier()
        _logger.info("stopping           step %d is saved", step)
        self._release()  # the folder must be free when the job comes back
        self._interruption.requeue()
        raise Interrupted(self._interruption.signal_number, step)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Writes the numbers of one step to metrics.jsonl and hands them to all trackers; on other ranks it does nothing.

        A tracker may fail without harm, metrics.jsonl may not: a checkpoint must never outrun it.
        """
        if self._jsonl is not None:
            self._jsonl.log(metrics, step=step)
            self._trackers.log(metrics, step=step)

    def checkpoint(self, step: int, state: Mapping[str, Saveable]) -> None:
        """Commits `state` as the checkpoint of `step`, after the metrics up to it are on disk; see `Checkpointer.save`."""
        if self._jsonl is not None:
            self._jsonl.sync()
        self._checkpointer.save(step, self._with_random_state(state))

    def wait_for_checkpoint(self) -> None:
        """Ends a loop: returns when its newest checkpoint is on disk, or raises what kept it from that. To be called on every rank.

        A signal that came after the last `is_interrupted` does now what it would have done without us.
        """
        self.rest()
        self._checkpointer.wait()
        self._interruption.remove(deliver=True)

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file of the run's folder atomically; returns its path."""
        path = self.directory / name
        if self.world.is_main:
            write_atomically(path, text)
        return path

    def finish(self, summary: Mapping[str, Any], *, report: ReportConfig) -> Path:
        """Writes `summary.json` and `report.html`, and returns the report's path."""
        path = self.directory / "report.html"
        if self.world.is_main:
            self.write_text("summary.json", json.dumps(_finite(summary), indent=1))
            write_atomically(path, render_report(self.directory, report))
        return path

    def _with_random_state(self, state: Mapping[str, Saveable]) -> dict[str, Saveable]:
        return {**state, "random_state": self._random_state}

    def _claim(self) -> None:
        directory = self.directory
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._created = missing
            self._lock()
        except OSError as error:
            raise UserError(f"{directory} cannot be written ({error.strerror}): choose another output_root or name") from error
        if self._overwrites:
            self._check_emptying()
            return
        if self._config.resume == "must" and not self.checkpoint_steps:
            raise UserError(f"resume=must but {directory} holds no checkpoint: use resume=auto or another name")
        holds_a_run = bool(self.checkpoint_steps) or (directory / "summary.json").exists()
        if self._config.resume == "never" and holds_a_run:
            raise UserError(f"resume=never but {directory} holds a run: choose another name or add overwrite=true")
        if holds_a_run and (directory / "config.yaml").exists():
            saved = yaml.safe_load((directory / "config.yaml").read_text())
            difference = first_difference(saved, self._resolved, budget_keys=self._budget_keys)
            if difference is not None:
                raise UserError(f"{directory} holds a run with {difference}: choose another name or add overwrite=true")

    def _check_emptying(self) -> None:
        content = [path for path in self.directory.iterdir() if path.name != LOCK]
        config = self.directory / "config.yaml"
        # A slip in the name must not delete somebody's files, nor an evaluation the training that it evaluates.
        if content and not (config.exists() and set(yaml.safe_load(config.read_text())) == set(self._resolved)):
            raise UserError(
                f"overwrite=true but {self.directory} holds something else than an earlier run of this command: choose another name"
            )

    def _empty(self) -> None:
        # Only now, when the new run has been found sound, does the old one go.
        for path in (path for path in self.directory.iterdir() if path.name != LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _lock(self) -> None:
        # An flock dies with its process, however that ends, so it cannot go stale.
        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{self.directory} is in use by a process that is running: wait for it or choose another name") from None
        self._lock_descriptor = descriptor

    def _release(self) -> None:
        if self._lock_descriptor is not None:
            (self.directory / LOCK).unlink(missing_ok=True)
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def _close(self) -> None:
        unwatch()
        self._interruption.remove()
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
        try:
            self._checkpointer.wait()  # after an error of another kind, what is being written still gets there
        except UserError as error:
            _logger.warning("%s", error)
        self._trackers.close()
        if self._jsonl is not None:
            self._jsonl.close()
        self._release()
        # The run ended before it began: the folders made for it go again, unless somebody else has come to use them.
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                break


LOCK = ".lock"
"""In a run's folder while a process works in it, which holds a lock on this file."""


def first_difference(saved: Mapping[str, Any], current: Mapping[str, Any], *, budget_keys: tuple[str, ...] = ()) -> str | None:
    """The first setting in which two resolved configs differ, as `key=saved instead of current`; None if none does.

    Keys that touch no number (paths, trackers, retention) do not count; keys in `budget_keys` may grow.

    Example:
        >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
        'a.b=1 instead of 2'
    """
    before, after = _flatten(saved), _flatten(current)
    for key in (*after, *(key for key in before if key not in after)):
        if key.split(".")[0] in _NOT_IDENTITY or before.get(key) == after.get(key):
            continue
        old, new = before.get(key), after.get(key)
        if key in budget_keys and isinstance(old, int | float) and isinstance(new, int | float) and new > old:
            continue
        return f"{key}={old} instead of {new}"
    return None


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {key: value for name, branch in tree.items() for key, value in _flatten(branch, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): tree}


def _plain(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts, lists and scalars."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    tree = asdict(config)
    assert isinstance(tree, dict)
    return tree


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
