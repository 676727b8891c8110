"""The lock of a folder: one owner at any moment, whatever the interleaving."""

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.run import lock as module
from triptych.run.lock import LOCK, FolderLock, is_locked


def test_the_file_exists_while_the_lock_is_held(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert not is_locked(tmp_path)
    lock.acquire()
    assert is_locked(tmp_path)
    with pytest.raises(UserError, match="in use by a running process"):
        FolderLock(tmp_path).acquire()
    lock.release()
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_left_by_a_dead_process_can_be_locked(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    assert not is_locked(tmp_path)
    FolderLock(tmp_path).acquire()


def test_who_opened_the_file_before_its_release_does_not_own_the_folder_beside_its_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B opens the file; A releases, which unlinks it; C makes a new file and locks it; B then gets the lock of the old file."""
    first, second, third = FolderLock(tmp_path), FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()

    def interleave(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(module.fcntl, "flock", fcntl_flock)
        first.release()
        third.acquire()
        fcntl_flock(descriptor, operation)

    fcntl_flock: Callable[..., Any] = fcntl.flock
    monkeypatch.setattr(module.fcntl, "flock", interleave)
    with pytest.raises(UserError, match="in use"):
        second.acquire()
    assert is_locked(tmp_path)
    third.release()
    second.acquire()


def test_a_release_leaves_the_file_of_another_owner(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    (tmp_path / LOCK).unlink()  # by hand
    second.acquire()
    first.release()
    assert is_locked(tmp_path)


def test_a_momentary_look_does_not_refuse_a_run(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    looking = (tmp_path / LOCK).open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    threading.Timer(0.1, looking.close).start()
    FolderLock(tmp_path).acquire()
    assert is_locked(tmp_path)


def _enter(folder: Path, entries: int) -> None:
    for _ in range(entries):
        lock = FolderLock(folder)
        try:
            lock.acquire()
        except UserError:
            continue
        os.close(os.open(folder / "owner", os.O_CREAT | os.O_EXCL))  # fails if another process is inside
        (folder / "owner").unlink()
        lock.release()


def test_four_processes_are_never_inside_together(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_enter, args=(tmp_path, 400)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
