"""Atomic checkpoints: written to a temporary folder, hashed, then renamed."""

import itertools
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.checkpoint import Saveable, Writer
from triptych.checkpoint.manifest import damage_of, remove_listed, write_manifest
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import describe_disk_error, first_unused, is_disk_error, sync
from triptych.telemetry.logging import get_logger

_logger = get_logger("checkpoint")

_COMPLETE = re.compile(r"step_(\d{8})")
_OWN = re.compile(r"step_\d{8}(\.(partial|replaced|removed|abandoned(-\d+)?))?")


@dataclass
class CheckpointConfig:
    """When checkpoints are written and how many are kept.

    Attributes:
        every_steps: write after each multiple of this many steps, and after the last step.
        keep: number of newest complete checkpoints kept on disk.
        keep_best: a metric, such as `evaluation/accuracy`: a step that logs a better value than all before it writes a checkpoint, which
            is kept until the next better one; None for none.
        lower_is_better: whether the smallest value of that metric is the best.
        asynchronous: write in a background thread, so that training only waits for the copy of its state; false waits for the disk.
    """

    every_steps: int = 10
    keep: int = 2
    keep_best: str | None = None
    lower_is_better: bool = False
    asynchronous: bool = True

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise UserError(f"checkpoint.every_steps is {self.every_steps}: it must be 1 or more")
        if self.keep < 1:
            raise UserError(f"checkpoint.keep is {self.keep}: it must be 1 or more")


class Checkpointer:
    """Step folders below one directory.

    A folder `step_00000010` is complete by construction: it was written as `step_00000010.partial`, every file
    was hashed (SHA-256) into `manifest.json` and synced to disk, and only then was the folder renamed. The latest
    checkpoint is found from the folder names; there is no pointer file. What is not in a manifest is never removed.

    Args:
        directory: parent of the step folders; created at the first save.
        world: the processes that save and load together.
        keep: number of newest complete checkpoints that are kept.
        asynchronous: whether `save` returns when the state is copied; the next `save` or `wait` raises an error of the write.
    """

    def __init__(self, directory: Path, world: World, *, keep: int = 2, asynchronous: bool = False) -> None:
        self._directory = directory
        self._world = world
        self._keep = keep
        self._asynchronous = asynchronous
        self._best: int | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending; their contents are not verified here."""
        if not self._directory.is_dir():
            return []
        matches = (_COMPLETE.fullmatch(path.name) for path in self._directory.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in matches if match)

    def path(self, step: int) -> Path:
        """The folder of a complete checkpoint."""
        return self._directory / f"step_{step:08d}"

    def save(self, step: int, state: Mapping[str, Saveable], *, best: int | None = None) -> None:
        """Writes every component and commits them together, then removes older checkpoints beyond `keep`, but not that of step `best`.

        An asynchronous save waits for the previous one, copies the state, and returns. A kill at any moment of a save
        leaves the earlier checkpoint intact.

        Raises:
            UserError: if the files cannot be written (a full or read-only disk). The partial folder is
                removed, and earlier checkpoints are unchanged.
        """
        self.wait()
        self._best = best
        partial = self._directory / f"step_{step:08d}.partial"
        group = self._world.background_group
        failure: str | None = None
        try:
            if self._world.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                for name in state:
                    (partial / name).mkdir(parents=True)
        except OSError as error:
            failure = describe_disk_error(error)
        # Failures are gathered before the next collective, so that no rank waits for one that has failed.
        failure = self._first_failure(failure, group)
        writers: list[Writer] = []
        if failure is None:
            try:
                found = [component.save(partial / name) for name, component in state.items()]
                writers = [writer for writer in found if writer is not None]
            except Exception as error:
                failure = _disk_failure(error)
        if not self._asynchronous:
            self._write(step, partial, writers, failure, group)
            return
        self._thread = threading.Thread(target=self._write_aside, args=(step, partial, writers, failure, group), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the pending checkpoint is committed.

        Raises:
            UserError: if it could not be written; raised on every rank.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write_aside(self, step: int, partial: Path, writers: list[Writer], failure: str | None, group: Any) -> None:
        try:
            self._write(step, partial, writers, failure, group)
        except BaseException as error:
            self._error = error

    def _write(self, step: int, partial: Path, writers: list[Writer], failure: str | None, group: Any) -> None:
        if failure is None:
            try:
                for writer in writers:
                    writer()
            except BaseException as error:  # torch.distributed.checkpoint raises a BaseException
                failure = _disk_failure(error)
        failure = self._first_failure(failure, group)
        if failure is None and self._world.is_main:
            try:
                self._commit(step, partial)
            except OSError as error:
                failure = describe_disk_error(error)
        failure = self._first_failure(failure, group)
        if failure is not None:
            self._abandon(step, partial, failure, group)
        if self._world.is_main:
            for old in self.steps()[: -self._keep]:
                if old == self._best:
                    continue
                try:
                    self._remove(self.path(old))
                except OSError as error:  # on rank 0 alone, and the new checkpoint is committed
                    _logger.warning("checkpoint %s could not be removed (%s)", self.path(old), describe_disk_error(error))

    def restore(self, state: Mapping[str, Saveable], step: int | None = None) -> int | None:
        """Loads the newest checkpoint, or that of `step`, into every component.

        Step, set of files and every file are compared with the manifest before anything is loaded. Leftovers of interrupted
        saves are removed; checkpoints newer than a chosen `step` are set aside as `step_XXXXXXXX.abandoned`, `.abandoned-2` and so on.

        Returns:
            The step, or None where there is no checkpoint.

        Raises:
            UserError: if the chosen step does not exist, lacks a component, is of another step than its name says, or a file is
                missing, truncated, altered or too many; the message names the newest earlier checkpoint that is intact.
        """
        self.wait()
        with self._world.main_first() as is_main:
            if is_main:
                self._put_back()
        chosen = self.choose(step)
        if chosen is None:
            return None
        with self._world.main_first() as is_main:
            if is_main:
                self._verify(chosen)
                self._tidy(chosen)
        for name, component in state.items():
            if not (self.path(chosen) / name).is_dir():
                raise UserError(
                    f"checkpoint {self.path(chosen)} has no '{name}', another version of this command wrote it: "
                    "resume with that version, or add overwrite=true to start over"
                )
            component.load(self.path(chosen) / name)
        return chosen

    def clear(self) -> None:
        """Removes all checkpoints, the abandoned ones and leftovers too; other files, and edited ones, stay."""
        self.wait()
        if not self._directory.is_dir():
            return
        for folder in sorted(self._directory.iterdir()):
            if folder.is_dir() and not folder.is_symlink() and _OWN.fullmatch(folder.name):
                if folder.suffix == ".partial":
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    self._remove(folder)
        with suppress(OSError):  # other files
            self._directory.rmdir()

    def choose(self, step: int | None, *, option: str = "resume_step") -> int | None:
        """The step of the newest complete checkpoint, or `step` itself if it has one; None where there is none.

        Args:
            step: of the checkpoint; None for the newest.
            option: name of the setting, for the error message.

        Raises:
            UserError: if there is no complete checkpoint of `step`.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            listed = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{option} is {step} but {self._directory} holds checkpoints of steps {listed}: choose one of them")
        if step is None and steps:
            return steps[-1]
        return step

    def damage(self, step: int) -> str | None:
        """Damage of the checkpoint of `step`, in a few words that begin with the file; None if it is intact."""
        return damage_of(self.path(step), step)

    def _verify(self, chosen: int) -> None:
        damage = self.damage(chosen)
        if damage is None:
            return
        good = next((step for step in reversed(self.steps()) if step < chosen and self.damage(step) is None), None)
        remedy = (
            "add overwrite=true to start over" if good is None else f"add resume_step={good} once to resume from the previous intact one"
        )
        raise UserError(f"checkpoint {self.path(chosen)} is damaged ({damage}): {remedy}")

    def _put_back(self) -> None:
        """Restores a checkpoint that was moved aside for its replacement, where a kill prevented the replacement."""
        for replaced in self._directory.glob("step_*.replaced"):
            if replaced.with_suffix("").exists():
                self._remove(replaced)
            else:
                replaced.rename(replaced.with_suffix(""))

    def _tidy(self, chosen: int) -> None:
        for leftover in self._directory.glob("step_*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self._directory.glob("step_*.removed"):
            self._remove(leftover)
        for newer in (step for step in self.steps() if step > chosen):
            self.path(newer).rename(_unused(self._directory / f"step_{newer:08d}.abandoned"))

    def _commit(self, step: int, partial: Path) -> None:
        write_manifest(partial, step)
        final = self.path(step)
        replaced = final.with_name(f"{final.name}.replaced")
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        sync(self._directory)
        if replaced.exists():
            self._remove(replaced)

    def _remove(self, folder: Path) -> None:
        # Renamed before it is emptied: a kill in between must not leave a partial folder under a complete name.
        removed = folder.with_suffix(".removed")
        if folder != removed:
            if removed.exists():
                self._remove(removed)
            folder.rename(removed)
        if not remove_listed(removed):  # it holds files that no checkpoint has
            removed.rename(_unused(removed.with_suffix(".kept")))

    def _first_failure(self, failure: str | None, group: Any) -> str | None:
        failures = self._world.gather_objects([failure], group=group)
        return next((item for item in failures if item is not None), None)

    def _abandon(self, step: int, partial: Path, reason: str, group: Any) -> None:
        if self._world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        self._first_failure(None, group)  # a barrier: rank 0 has removed the partial folder
        steps = self.steps()
        kept = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no earlier one"
        free = shutil.disk_usage(_existing(self._directory)).free / 1e6
        raise UserError(
            f"checkpoint of step {step} could not be written to {self._directory} ({reason}; {free:.1f} MB free): "
            f"{kept}; make room and rerun the same command"
        )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _unused(path: Path) -> Path:
    """The path, or with a number appended the first that does not exist."""
    return first_unused(path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1))


def _disk_failure(error: BaseException) -> str:
    """The reason of a failed save in a few words; an error that the disk did not cause is raised again."""
    failures = getattr(error, "failures", None)  # torch.distributed.checkpoint: rank -> (error, traceback)
    causes = [error] if not isinstance(failures, dict) else [cause for cause, _ in failures.values()]
    # safetensors and torch.save report a full disk by their own exception types.
    for cause in causes:
        if is_disk_error(cause):
            return describe_disk_error(cause)
    raise error
