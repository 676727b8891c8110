"""One run: its folder, identity, trackers and checkpoints, opened and closed together."""

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import torch

from triptych.checkpoint import Saveable
from triptych.checkpoint.checkpointer import Checkpointer
from triptych.checkpoint.export import Exportable
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import first_unused
from triptych.report import ReportConfig
from triptych.run.best import BestStep
from triptych.run.config import RunConfig
from triptych.run.directory import PHASE, RunDirectory
from triptych.run.identity import NOT_IDENTITY, Change, Identity, read_identity
from triptych.run.inputs import InputDigests, find_inputs
from triptych.run.loop_state import LoopState
from triptych.run.provenance import provenance
from triptych.run.secret import mask_secrets, without_secrets
from triptych.run.signals import Interrupted, Interruption, unwatch, watch
from triptych.run.step import Evaluations, Guard, Step
from triptych.run.targets import CORE, outside_targets, package_of
from triptych.seeding import GlobalRandomState, derive_seed
from triptych.telemetry.flops import device_peak
from triptych.telemetry.logging import get_logger, progress, setup_logging
from triptych.telemetry.profiling import start_profiler
from triptych.telemetry.tracking import Tracker, Trackers
from triptych.telemetry.tracking.jsonl import JsonlTracker, read_rows
from triptych.telemetry.tracking.terminal import TerminalTracker

_logger = get_logger("run")


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
        self._folder = RunDirectory(self.directory)
        self._config = config
        self._settings = _plain(config)  # with secrets
        self._identity = Identity.of(self._settings, {})
        self._changes: list[Change] = []
        self._resume_step = config.resume_step
        self._budget_keys = budget_keys
        self._build_tracker = tracker
        self._digests = InputDigests(self.cache_directory, run=self.directory, output_root=Path(config.output_root))
        self._checkpointer = self._checkpoints_in("checkpoints")
        self._best = BestStep(config.checkpoint.keep_best, lower_is_better=config.checkpoint.lower_is_better)
        self._logged: tuple[int | None, dict[str, float]] = (None, {})  # step and metrics of the last row
        self._fingerprint: str | None = None
        self._random_state = GlobalRandomState(world.rank)
        self._interruption = Interruption()
        self._profiler: torch.profiler.profile | None = None
        self._trackers = Trackers([])
        self._jsonl: JsonlTracker | None = None
        self._packages = {CORE, package_of(type(config))}
        self._overwrites = config.overwrite
        self._has_started = False

    @classmethod
    @contextmanager
    def open(cls, config: RunConfig, *, budget_keys: tuple[str, ...] = (), tracker: Callable[..., Tracker] | None = None) -> Iterator[Self]:
        """Joins the other processes, claims the run's folder and checks that it belongs to this config and these inputs.

        Nothing is written or overwritten before `start` or `begin`, apart from the folder and its lock, and both are removed if
        the run ends earlier.

        Args:
            config: the run's settings.
            budget_keys: dotted keys that may grow between two invocations of one run (`trainer.max_steps`).
            tracker: builds a tracker beside metrics.jsonl and the terminal, from keyword arguments `directory`,
                `run_id`, `name` and `config`.

        Raises:
            UserError: if the folder holds a run of another config or with other inputs (the first key that differs is named),
                belongs to a process that is alive, cannot be written, or contradicts `resume`.
        """
        with World.join(config.device, timeout_seconds=config.timeout_seconds) as world:
            setup_logging(world.rank, world_size=world.size)
            # Dropout uses the global random stream, which a checkpoint restores.
            torch.manual_seed(derive_seed(config.seed, "global", world.rank))
            run = cls(config, world, budget_keys=budget_keys, tracker=tracker)
            try:
                with world.main_first() as is_main:
                    if is_main:
                        run._claim()
                run._resume_step, run._overwrites = world.broadcast_object((run._resume_step, run._overwrites))
                yield run
                run.wait_for_checkpoint()
            finally:
                run._close()

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.world.device

    def peak_flops(self, precision: str) -> float | None:
        """Peak operations per second of this rank's device in `precision`; None if it is not known."""
        return device_peak(self.device, precision, self._config.peak_teraflops)

    @property
    def best_step(self) -> int | None:
        """The step whose checkpoint is kept for its value of `checkpoint.keep_best`; None without such a setting."""
        return self._best.step

    @property
    def cache_directory(self) -> Path:
        """A folder shared by all runs below `output_root`, for results that depend on their inputs only."""
        return Path(self._config.output_root) / "cache"

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps of the complete checkpoints of this run; none of those that `overwrite` is about to delete."""
        if self._overwrites:
            return []
        self._checkpointer.wait()
        return self._checkpointer.steps()

    def is_finished(self, step: int) -> bool:
        """Whether an earlier invocation reached `step` and wrote its summary, and `resume_step` requests no earlier one."""
        steps = self.checkpoint_steps
        summary = (self.directory / "summary.json").exists()
        return summary and bool(steps) and steps[-1] >= step and self._resume_step in (None, steps[-1])

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step`."""
        return step % self._config.checkpoint.every_steps == 0

    def start(self, *, resumed_from: int | None = None, exportable: Exportable | None = None) -> None:
        """Clears what an earlier run wrote if `overwrite` is set, and writes config, identity and provenance.

        `begin` does it; only work before `begin` that writes into the folder, such as a `phase`, calls it. Called on every rank.

        Args:
            resumed_from: step of the checkpoint that was restored.
            exportable: see `begin`.
        """
        with self.world.main_first() as is_main:
            if is_main:
                if self._overwrites:
                    self._folder.clear()
                files = self._folder.files
                files.remove(["summary.json", "report.html"])  # of an earlier invocation
                self._folder.log_changes(self._changes, resumed_from or 0)
                if resumed_from is not None:
                    self._identity.rewound_to = self._config.resume_step
                self._folder.write_identity(self._identity)
                outside = outside_targets(self._settings, self._packages)
                files.write("provenance.json", json.dumps({**provenance(), "outside_targets": outside}, indent=1))
                if outside and not self._has_started:
                    _logger.info("code from outside  %s", ", ".join(outside))
                if exportable is not None:
                    exportable.leave(files)
        self._changes, self._overwrites, self._has_started = [], False, True
        self._folder.keep()

    def begin(self, state: Mapping[str, Saveable], *, columns: tuple[str, ...] = (), exportable: Exportable | None = None) -> int | None:
        """Restores the newest checkpoint into `state`, writes config and provenance, and starts the trackers.

        Args:
            state: the components of the run's checkpoints by name.
            columns: metrics that the terminal shows.
            exportable: converts the checkpoints to a model, for `triptych export`.

        Returns:
            The step of the restored checkpoint, or None for a fresh start.
        """
        if self._overwrites:
            self.start()  # the new identity follows the cleared one at once: a kill leaves a run that can be overwritten again
        step = self._checkpointer.restore(self._complete(state, None), self._resume_step)
        with self.world.main_first() as is_main:
            if is_main and step is not None and self._resume_step is not None:
                self._keep_later_rows(step)  # before `start` records that `resume_step` was applied
        self.start(resumed_from=step, exportable=exportable)
        with self.world.main_first() as is_main:
            if is_main:
                self._start_trackers(step, columns)
        if self._config.profile:
            self._profiler = start_profiler(self.directory / "profile", self.world.rank, self.device)
        if step is not None:
            _logger.info("resuming from step %d (%s)", step, self._checkpointer.path(step))
        return step

    def _start_trackers(self, step: int | None, columns: tuple[str, ...]) -> None:
        self._jsonl = JsonlTracker(self._folder.files, resume_step=step)
        kept = set(self._checkpointer.steps())
        for row in read_rows(self.directory / "metrics.jsonl"):
            if row["step"] in kept:
                self._best.observe(row, int(row["step"]))
        trackers: list[Tracker] = [TerminalTracker(columns)]
        if self._build_tracker is not None:
            identity = self._identity
            name = without_secrets(self._config.name)
            trackers.append(self._build_tracker(directory=self.directory, run_id=identity.id, name=name, config=identity.settings))
        self._trackers = Trackers(trackers)

    def _keep_later_rows(self, step: int) -> None:
        """Copies the rows after the step that `resume_step` goes back to, as their checkpoints are kept as well."""
        for name in ("metrics", "timings"):
            later = [row for row in read_rows(self.directory / f"{name}.jsonl") if row["step"] > step]
            if later:
                path = first_unused(self.directory / f"{name}.abandoned-{number}.jsonl" for number in itertools.count(1))
                self._folder.files.write(path.name, "".join(json.dumps(row) + "\n" for row in later))

    @contextmanager
    def phase(self, name: str, state: Mapping[str, Saveable], *, fingerprint: str) -> Iterator[int]:
        """Work before the training, with checkpoints of its own in the folder `.phase-<name>`, which are removed when the work is done.

        Yields the step of the newest checkpoint after restoring it, or 0. Within the context `steps` writes these checkpoints.

        Args:
            name: of the phase.
            state: the components of the checkpoints.
            fingerprint: of everything that the work depends on; checkpoints of another fingerprint are removed.
        """
        self.start()
        outer, self._checkpointer, self._fingerprint = self._checkpointer, self._checkpoints_in(f"{PHASE}{name}"), fingerprint
        inner = self._checkpointer
        try:
            step: int | None = None
            with self.world.main_first() as is_main:
                if is_main:
                    step = self._usable(inner, fingerprint)
                    if step is None:
                        inner.clear()
            step = self.world.broadcast_object(step)
            yield 0 if step is None else inner.restore(self._complete(state, None), step) or 0
            inner.wait()
            with self.world.main_first() as is_main:
                if is_main:
                    inner.clear()
        finally:
            with suppress(UserError):  # of a write; another error ends the work
                inner.wait()
            self._checkpointer, self._fingerprint = outer, None

    def _usable(self, checkpointer: Checkpointer, fingerprint: str) -> int | None:
        """Step of the newest checkpoint of a phase that is intact and of this fingerprint; None if there is none."""
        for step in reversed(checkpointer.steps()):
            damage = checkpointer.damage(step)
            if damage is None:
                return step if LoopState.fingerprint_in(checkpointer.path(step)) == fingerprint else None
            _logger.warning("checkpoint %s is damaged (%s) and not used", checkpointer.path(step), damage)
        return None

    def pause_watchdog(self) -> None:
        """Stops the watchdog until the next `is_interrupted`: an evaluation may take longer than any step."""
        unwatch()

    def steps(
        self,
        max_steps: int,
        state: Mapping[str, Saveable],
        *,
        first: int = 1,
        guard: Guard | None = None,
        evaluations: Evaluations | None = None,
        title: str = "training",
    ) -> Iterator[Step]:
        """The steps of a training from `first` to `max_steps`, each followed by the evaluation, metrics and checkpoint due after it.

        Order within a step: its body, profiler, signals, evaluation, metrics, checkpoint, and the end of an interrupted run.
        From the first step to the last, signals are recorded instead of ending the process, and the watchdog runs. Called on every rank.

        Args:
            max_steps: number of the last step.
            state: components of the checkpoints; empty for a loop without checkpoints.
            first: number of the first step, one more than that of the restored checkpoint.
            guard: checked before weights are saved or evaluated.
            evaluations: the evaluation and its interval; None for no evaluation.
            title: shown beside the progress bar.

        Raises:
            Interrupted: after a signal, when the state is saved.
        """
        self._interruption.install()
        watch(self._config.timeout_seconds)
        with progress(max_steps, title, initial=first - 1, enabled=self.world.is_main) as bar:
            for number in range(first, max_steps + 1):
                step = Step(number, self, state, guard)
                yield step
                if self._profiler is not None:
                    self._profiler.step()
                self._finish_step(step, is_last=number == max_steps, evaluations=evaluations)
                bar.update()
        self.wait_for_checkpoint()

    def _finish_step(self, step: Step, *, is_last: bool, evaluations: Evaluations | None) -> None:
        guard, state, number = step._guard, step._state, step.number
        is_interrupted = self.is_interrupted()
        is_sound = guard is None or guard.is_sound
        saves = bool(state) and (is_interrupted or is_last or (self.is_due(number) and is_sound))
        evaluates = evaluations is not None and (is_last or (evaluations.every_steps > 0 and number % evaluations.every_steps == 0))
        if evaluations is not None and evaluates:
            if guard is not None:
                guard.check(number)
            self.pause_watchdog()
            step.metrics.update(evaluations.evaluate())
            # A signal may arrive during a long evaluation. After the last step no work is left to interrupt.
            is_interrupted = not is_last and self.is_interrupted()
            saves |= is_interrupted
        if step.metrics:
            self.log(step.metrics, step=number)
        if self._best.metric is not None:
            saves |= bool(state) and is_sound and self.world.broadcast_object(self._best.improves(step.metrics))
        if saves:
            if guard is not None and not evaluates:  # after the row of the step is logged
                guard.check(number)
            self.checkpoint(number, state)
        if is_interrupted:
            self.stop(number if state else None)

    def is_interrupted(self) -> bool:
        """Whether any rank has received a signal to stop; the same answer on every rank. Called on all of them.

        A call also restarts the watchdog: `timeout_seconds` without another call or `pause_watchdog` end the process, with the
        stacks of its threads on standard error.
        """
        watch(self._config.timeout_seconds)
        interruption = self._interruption
        if self.world.size > 1:
            interruption.signal_number = interruption.of_priority(
                max(self.world.gather_numbers(interruption.priority(interruption.signal_number)))
            )
        return interruption.signal_number != 0

    def stop(self, step: int | None) -> NoReturn:
        """Ends an interrupted run whose checkpoint of `step` has been written; a scheduler that supports it requeues the job.

        Raises:
            Interrupted: always, unless the scheduler's launcher ends the process itself.
        """
        self.pause_watchdog()
        self._checkpointer.wait()
        self.world.barrier()
        _logger.info("stopping           %s", "nothing is saved yet" if step is None else f"step {step} is saved")
        self._interruption.requeue(self._leave)
        raise Interrupted(self._interruption.signal_number, step)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Writes the numbers of one step to metrics.jsonl and passes them to all trackers; a no-op on other ranks.

        Failures of a tracker are logged; those of metrics.jsonl are raised, so that no checkpoint is newer than its metrics.
        """
        if self._fingerprint is None:  # not in a phase
            self._logged = step, dict(metrics)
        if self._jsonl is not None:
            self._jsonl.log(metrics, step=step)
            self._trackers.log(metrics, step=step)

    def checkpoint(self, step: int, state: Mapping[str, Saveable]) -> None:
        """Commits `state` as the checkpoint of `step`, after the metrics up to it are on disk; see `Checkpointer.save`."""
        if self._jsonl is not None:
            self._jsonl.sync()
        if self._logged[0] == step and self._fingerprint is None:
            self._best.observe(self._logged[1], step)
        self._checkpointer.save(step, self._complete(state, step), best=self._best.step)

    def wait_for_checkpoint(self) -> None:
        """Ends a loop: returns when its newest checkpoint is on disk, or raises the error of its write. Called on every rank.

        A signal received after the last `is_interrupted` is delivered now.
        """
        self.pause_watchdog()
        self._checkpointer.wait()
        self._interruption.remove(deliver=True)

    def write_file(self, name: str, content: str | bytes) -> Path:
        """Writes a file of the run's folder atomically, text as UTF-8; returns its path."""
        if self.world.is_main:
            self._folder.files.write(name, content)
        return self.directory / name

    @contextmanager
    def staging(self, name: str = "") -> Iterator[Path]:
        """A temporary folder whose files move into the run's folder, or its subfolder `name`, when the body has ended; on rank 0.

        A body that fails leaves nothing. Files of another origin under the same names are kept aside.
        """
        partial = self.directory / f".{name or 'run'}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        partial.mkdir()
        try:
            yield partial
            self._folder.files.install(partial, name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def finish(self, summary: Mapping[str, Any], *, report: ReportConfig) -> Path:
        """Writes `summary.json` and `report.html`, and returns the report's path."""
        if self.world.is_main:
            # Imported lazily: the import of matplotlib takes half a second.
            from triptych.report.render import render_report

            self.write_file("summary.json", json.dumps(_finite(without_secrets(summary)), indent=1))
            self.write_file("report.html", mask_secrets(render_report(self.directory, report), self._hidden()))
            self._log_best()
        return self.directory / "report.html"

    def _log_best(self) -> None:
        best = self._best
        if best.metric is None:
            return
        if best.step is None:
            _logger.warning("checkpoint.keep_best is '%s', which no step has logged: no checkpoint was kept for it", best.metric)
            return
        command = f"triptych export {self.directory} --step {best.step}"
        _logger.info("best               step %d (%s %.4g): %s", best.step, best.metric, best.value, command)

    def _hidden(self) -> dict[str, Any]:
        """The settings without those that are the run's folder, which everyone sees."""
        return {key: value for key, value in self._settings.items() if key not in ("name", "output_root")}

    def _checkpoints_in(self, name: str) -> Checkpointer:
        checkpoint = self._config.checkpoint
        return Checkpointer(self.directory / name, self.world, keep=checkpoint.keep, asynchronous=checkpoint.asynchronous)

    def _complete(self, state: Mapping[str, Saveable], step: int | None) -> dict[str, Saveable]:
        """The state of a loop with its step, None before it is known, and the global random streams."""
        return {"loop": LoopState(step, self.world.is_main, self._fingerprint), **state, "random_state": self._random_state}

    def _claim(self) -> None:
        """Locks the folder, digests the inputs, and checks both against an earlier invocation; on rank 0."""
        self._folder.claim()
        settings = {key: value for key, value in self._settings.items() if key not in NOT_IDENTITY}
        inputs = {key: self._digests.digest(path) for key, path in find_inputs(settings, run=self.directory).items()}
        self._digests.save()  # also if the other ranks give up waiting
        self._identity = Identity.of(self._settings, inputs)
        asked = self._config.resume_step
        if self._overwrites and self._folder.is_requeued():
            _logger.info("overwrite=true was applied before this job was requeued: resuming")
            self._overwrites = False
        if self._overwrites:
            if asked is not None:
                raise UserError(f"overwrite=true and resume_step={asked} contradict each other: give one of them")
            self._folder.check_replaceable(self._settings)  # cleared by `begin`, after everything else has been checked
            return
        steps = self.checkpoint_steps
        # The identity of an invocation that died before its first checkpoint binds nothing.
        saved = read_identity(self.directory) if steps or (self.directory / "summary.json").exists() else None
        current = self._identity if saved is None else self._identity.kept(saved, self._settings)
        self._changes = self._folder.check_resumable(saved, current, self._config, budget_keys=self._budget_keys, steps=steps)
        for name in ("metrics.jsonl", "timings.jsonl"):
            if saved is not None:
                read_rows(self.directory / name)  # damaged ones are refused before anything is written
        if saved is not None and asked is not None and asked == saved.rewound_to and steps:
            # A requeued job repeats its command.
            _logger.info(
                "resume_step=%d was applied before: resuming from step %d; to go back again, run once without it", asked, steps[-1]
            )
            asked = self._resume_step = None
        self._checkpointer.choose(asked)
        if asked is None:
            self._identity = current  # else another curve begins

    def _close(self) -> None:
        unwatch()
        self._interruption.remove()
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
        try:
            self._checkpointer.wait()  # after any other error, let the write in progress finish
        except UserError as error:
            _logger.warning("%s", error)
        try:
            self._close_metrics()
            self._trackers.close()
        finally:
            self._folder.close()

    def _close_metrics(self) -> None:
        if self._jsonl is not None:
            self._jsonl.close()
            self._jsonl = None

    def _leave(self) -> None:
        """Releases the folder for a requeued job, without waiting for the services of trackers."""
        self._close_metrics()
        self._folder.release()


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
