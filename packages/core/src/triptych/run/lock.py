"""The lock of a run's folder: one process owns it, and it ends with that process."""

import fcntl
import os
import time
from pathlib import Path

from triptych.errors import UserError

LOCK = ".lock"
"""File in a run's folder on which the process that writes there holds a lock."""

_PATIENCE_SECONDS = 0.5  # `is_locked` holds a lock for a moment


class FolderLock:
    """An exclusive lock on the file `.lock` in a folder; the file exists while the lock is held, or after a kill.

    The kernel releases an flock when its process ends, so it cannot become stale. The file is removed at release, and another
    process may have opened it just before: a process that gets the lock of a file that no longer has the name tries again.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: if another process holds it.
            OSError: if the file cannot be made.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() > deadline:
                    raise UserError(f"{self._folder} is in use by a running process: wait for it or choose another name") from None
                time.sleep(0.02)
                continue
            if _has_name(descriptor, self._path):
                self._descriptor = descriptor
                return
            os.close(descriptor)

    def release(self) -> None:
        """Removes the file and releases the lock; does nothing if it is not held."""
        if self._descriptor is None:
            return
        if _has_name(self._descriptor, self._path):  # else the file was removed by hand, and another process may own its successor
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
