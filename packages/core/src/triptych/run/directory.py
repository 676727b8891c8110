"""The folder of one run: locked by one process, compared with the settings of each invocation, cleared of its own files only."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from triptych.checkpoint.checkpointer import Checkpointer
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import read_yaml
from triptych.own_files import JOURNAL, OwnFiles
from triptych.run.config import RunConfig
from triptych.run.identity import (
    CHANGES_FILE,
    CONFIG_FILE,
    IDENTITY_FILE,
    RUN_FILES,
    Change,
    Identity,
    differences,
    flatten,
    is_named,
    read_identity,
)
from triptych.run.lock import LOCK, FolderLock, is_locked
from triptych.telemetry.logging import get_logger
from triptych.telemetry.tracking.jsonl import read_rows

_logger = get_logger("run")

PHASE = ".phase-"
"""Prefix of the folders with the checkpoints of phases before a training."""

_ATTEMPTS = 5  # another run may remove the folder, which it made, before it is locked


class RunDirectory:
    """A run's folder and its lock; used on the rank that writes.

    Args:
        path: the folder; created when it is claimed.

    Attributes:
        files: the files that commands wrote into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = OwnFiles(path)
        self._created: list[Path] = []
        self._lock = FolderLock(path)

    def claim(self) -> None:
        """Creates the folder and locks it.

        Raises:
            UserError: if it cannot be written, or another process holds its lock.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._created = missing
                self._lock.acquire()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and attempt < _ATTEMPTS:
                    continue
                raise UserError(f"{self.path} cannot be written ({error.strerror}): choose another output_root or name") from error
            return

    def check_resumable(
        self, saved: Identity | None, current: Identity, config: RunConfig, *, budget_keys: Sequence[str], steps: Sequence[int]
    ) -> list[Change]:
        """Refuses to resume without a checkpoint, or a run with other settings or inputs.

        Args:
            saved: of the run in the folder; None if it holds none.
            current: of this invocation, see `Identity.kept`.
            config: its settings.
            budget_keys: see `differences`.
            steps: of the complete checkpoints.

        Returns:
            The changes that `config.changed` names.

        Raises:
            UserError: if the folder contradicts `config.resume`, or holds a run that differs otherwise.
        """
        if config.resume == "must" and not steps:
            raise UserError(f"resume=must but {self.path} holds no checkpoint: use resume=auto or another name")
        if config.resume == "never" and saved is not None:
            raise UserError(f"resume=never but {self.path} holds a run: choose another name or add overwrite=true")
        known = [*flatten(current.settings), *current.inputs, *current.environment]
        if saved is not None:
            # A requeued job names its change again, whose setting may be gone since.
            known += [*flatten(saved.settings), *saved.inputs, *(str(row.get("key")) for row in read_rows(self.path / CHANGES_FILE))]
        unknown = [name for name in config.changed if not any(is_named(key, [name]) for key in known)]
        if unknown:
            raise UserError(f"changed names '{unknown[0]}', which is not a setting: give dotted keys, such as changed=[{known[0]}]")
        if saved is None:
            return []
        meant = []
        for change in differences(saved, current, budget_keys=budget_keys):
            if not is_named(change.key, config.changed):
                raise UserError(self._describe(change))
            meant.append(change)
        return meant

    def _describe(self, change: Change) -> str:
        ways = f"choose another name, add overwrite=true, or confirm the change with changed=[{change.key}]"
        if change.is_input:
            return f"{self.path} holds a run that has read another content of {change.key}: restore it, {ways}"
        return f"{self.path} holds a run with {change.key}={change.before} instead of {change.after}: {ways}"

    def check_replaceable(self, settings: Mapping[str, Any]) -> None:
        """Refuses to clear a folder that holds anything but an earlier run of this command, or another run below it.

        Raises:
            UserError: if it does.
        """
        config = self.path / CONFIG_FILE
        content = [path for path in self.path.iterdir() if path.name != LOCK]
        is_run = (self.path / JOURNAL).exists()
        if config.exists():
            # An evaluation must not replace the training that it evaluates. Settings of all commands may differ between versions.
            shared = {item.name for item in fields(RunConfig)}
            is_run = set(read_yaml(config, "choose another name")) - shared == set(settings) - shared
        if content and not is_run:
            raise UserError(f"overwrite=true but {self.path} holds files that are not an earlier run of this command: choose another name")
        for inner in _runs_below(self.path):
            raise UserError(f"overwrite=true but {inner} is another run, inside {self.path}: choose another name")

    def is_requeued(self) -> bool:
        """Whether the earlier run belongs to the same Slurm job, which was started again; its command is repeated unchanged."""
        if int(os.environ.get("SLURM_RESTART_COUNT", 0)) < 1 or not (self.path / IDENTITY_FILE).is_file():
            return False
        return read_identity(self.path).job == os.environ.get("SLURM_JOB_ID")

    def clear(self) -> None:
        """Removes what the earlier run wrote, and logs what was removed and what stays."""
        # Their manifests list their files. A copy of checkpoints in a folder of another name is the user's.
        for folder in (self.path / "checkpoints", *sorted(self.path.glob(f"{PHASE}*"))):
            Checkpointer(folder, World()).clear()
        cleared = self.files.clear()
        others = sorted(path.name for path in self.path.iterdir() if path.name not in (LOCK, JOURNAL))
        if cleared.removed or cleared.kept:
            _logger.info("replaced           %d files of an earlier run in %s", len(cleared.removed), self.path)
        if cleared.kept:
            _logger.info("kept aside         %s", _listed(cleared.kept))
        if set(others) - set(cleared.kept):
            _logger.info("unchanged          %s", _listed([name for name in others if name not in cleared.kept]))

    def write_identity(self, identity: Identity) -> None:
        """Writes the two files of an identity."""
        self.files.write(CONFIG_FILE, yaml.safe_dump(identity.settings, sort_keys=False))
        self.files.write(IDENTITY_FILE, json.dumps(identity.record(), indent=1))

    def log_changes(self, changes: Sequence[Change], step: int) -> None:
        """Appends changes to `changes.jsonl`, with the step after which they apply."""
        if not changes:
            return
        rows = read_rows(self.path / CHANGES_FILE)
        rows += [{"step": step, "key": change.key, "before": change.before, "after": change.after} for change in changes]
        self.files.write(CHANGES_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        for change in changes:
            _logger.info("changed            %s, from step %d on", change.key, step + 1)

    def keep(self) -> None:
        """Marks the folder as used: `close` does not remove it."""
        self._created = []

    def release(self) -> None:
        """Releases the lock."""
        self._lock.release()

    def close(self) -> None:
        """Releases the lock, and removes the folders that `claim` made unless `keep` was called."""
        self.release()
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                break


def _runs_below(folder: Path) -> Iterator[Path]:
    """Folders below a run's folder that hold another run, or the lock of one."""
    for path, below, files in os.walk(folder):
        below[:] = sorted(set(below) - {"checkpoints"})
        if Path(path) != folder and (set(files) >= RUN_FILES or is_locked(Path(path))):
            yield Path(path)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
