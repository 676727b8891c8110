"""The folder of one run: locked by one process, and compared with the config of each invocation."""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from triptych.errors import UserError

LOCK = ".lock"
"""File in a run's folder on which the process that writes there holds a lock."""

# Settings that may differ between two invocations of one run: they change no result.
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


class RunDirectory:
    """A run's folder and its lock; used on the rank that writes.

    Args:
        path: the folder; created when it is claimed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created: list[Path] = []
        self._lock_descriptor: int | None = None

    def claim(self) -> None:
        """Creates the folder and locks it.

        Raises:
            UserError: if it cannot be written, or another process holds its lock.
        """
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._created = missing
            self._lock()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}): choose another output_root or name") from error

    def check_resumable(self, resolved: Mapping[str, Any], *, resume: str, has_checkpoint: bool, budget_keys: tuple[str, ...]) -> None:
        """Refuses to resume without a checkpoint, or a run of another config.

        Args:
            resolved: the config of this invocation as plain values.
            resume: see `RunConfig`.
            has_checkpoint: whether the folder holds a complete checkpoint.
            budget_keys: see `first_difference`.

        Raises:
            UserError: if the folder contradicts `resume`, or holds a run of another config.
        """
        if resume == "must" and not has_checkpoint:
            raise UserError(f"resume=must but {self.path} holds no checkpoint: use resume=auto or another name")
        holds_a_run = has_checkpoint or (self.path / "summary.json").exists()
        if resume == "never" and holds_a_run:
            raise UserError(f"resume=never but {self.path} holds a run: choose another name or add overwrite=true")
        config = self.path / "config.yaml"
        if holds_a_run and config.exists():
            difference = first_difference(yaml.safe_load(config.read_text()), resolved, budget_keys=budget_keys)
            if difference is not None:
                raise UserError(f"{self.path} holds a run with {difference}: choose another name or add overwrite=true")

    def check_replaceable(self, resolved: Mapping[str, Any]) -> None:
        """Refuses to empty a folder that holds anything but an earlier run of this command.

        Raises:
            UserError: if it does.
        """
        content = [path for path in self.path.iterdir() if path.name != LOCK]
        config = self.path / "config.yaml"
        # A mistyped name must not delete unrelated files, nor an evaluation the training that it evaluates.
        if content and not (config.exists() and set(yaml.safe_load(config.read_text())) == set(resolved)):
            raise UserError(f"overwrite=true but {self.path} holds files that are not an earlier run of this command: choose another name")

    def empty(self) -> None:
        """Removes all but the lock."""
        for path in (path for path in self.path.iterdir() if path.name != LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def keep(self) -> None:
        """Marks the folder as used: `close` does not remove it."""
        self._created = []

    def release(self) -> None:
        """Releases the lock."""
        if self._lock_descriptor is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def close(self) -> None:
        """Releases the lock, and removes the folders that `claim` made unless `keep` was called."""
        self.release()
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                break

    def _lock(self) -> None:
        # The kernel releases an flock when its process ends, so it cannot become stale.
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{self.path} is in use by a running process: wait for it or choose another name") from None
        self._lock_descriptor = descriptor


def first_difference(saved: Mapping[str, Any], current: Mapping[str, Any], *, budget_keys: tuple[str, ...] = ()) -> str | None:
    """The first setting in which two resolved configs differ, as `key=saved instead of current`; None if none does.

    Keys that change no result (paths, trackers, retention) are ignored; keys in `budget_keys` may grow.

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
