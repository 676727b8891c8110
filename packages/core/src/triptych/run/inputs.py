"""Digests of the files and folders that the settings of a run name, cached so that large ones are hashed once."""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from triptych.files import sha256, write_atomically
from triptych.run.secret import leaves

CACHE_FILE = "digests.json"

# A file that was written this recently may be written again without a change of its time.
_SETTLED_SECONDS = 2.0
_PATH_KEYS = ("path", "weights", "file", "folder", "from", "directory", "prompts", "storyboard")


class InputDigests:
    """Digests of inputs, cached by path, size, times and inode of their files.

    Args:
        cache: folder of the cache; None for none.
        skip: folders that are not hashed where they lie in an input folder, such as the run's own.
    """

    def __init__(self, cache: Path | None = None, *, skip: Collection[Path] = ()) -> None:
        self._skip = frozenset(path.resolve() for path in skip)
        self._path = None if cache is None else cache / CACHE_FILE
        self._known = _read(self._path)
        self._is_changed = False

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and contents of all files below a folder, without hidden ones.

        Args:
            path: an existing file or folder.
        """
        files = list(_files(path.resolve(), self._skip)) if path.is_dir() else [path.resolve()]
        seen = hashlib.sha256()
        newest = 0
        for file in files:
            status = file.stat()
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
            name = file.relative_to(path.resolve()).as_posix()
            seen.update(json.dumps([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]).encode())
        key, fingerprint = str(path.resolve()), seen.hexdigest()
        if self._known.get(key, {}).get("seen") == fingerprint:
            return str(self._known[key]["sha256"])
        if path.is_dir():
            whole = hashlib.sha256()
            for file in files:
                whole.update(json.dumps([file.relative_to(path.resolve()).as_posix(), sha256(file)]).encode())
            found = whole.hexdigest()
        else:
            found = sha256(path)
        if newest / 1e9 < time.time() - _SETTLED_SECONDS:
            self._known[key] = {"seen": fingerprint, "sha256": found}
            self._is_changed = True
        return found

    def save(self) -> None:
        """Writes the cache if it has changed."""
        if self._path is not None and self._is_changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known, indent=1))
            self._is_changed = False


def find_inputs(settings: Mapping[str, Any], *, run: Path) -> dict[str, Path]:
    """The files and folders that settings name, by dotted key.

    A text is a path if something exists there and it looks like a path: it has a separator or a suffix, or its key is one of a path
    (`path`, `weights`, `..._from` and the like). So the inputs of a class that a config names are found as well.

    Args:
        settings: nested mappings and lists.
        run: the run's own folder; it and what lies in it are no inputs.
    """
    own = run.resolve()
    found = {}
    for key, value in leaves(settings):
        if isinstance(value, str) and _is_path(key, value):
            path = Path(value).resolve()
            if path != own and own not in path.parents:
                found[key] = Path(value)
    return found


def _is_path(key: str, value: str) -> bool:
    names = [name for name in key.split(".") if not name.isdigit()]
    if not names or names[-1].startswith("_"):  # `_target_`
        return False
    if "/" not in value and not Path(value).suffix and not names[-1].endswith(_PATH_KEYS):
        return False
    try:
        # Not a pipe, which can be read only once.
        return bool(value) and (Path(value).is_file() or Path(value).is_dir())
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _files(folder: Path, skip: Collection[Path]) -> Iterator[Path]:
    """Files below a folder, without hidden files and folders."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path in skip:
            continue
        if path.is_dir():
            yield from _files(path, skip)
        elif path.is_file():
            yield path


def _read(path: Path | None) -> dict[str, dict[str, str]]:
    """The cache; a damaged one is empty."""
    try:
        known = {} if path is None else json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values()) else {}
