"""Digests of the files and folders that the settings of a run name, cached so that large ones are hashed once."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from triptych.files import sha256, write_atomically
from triptych.run.identity import RUN_FILES
from triptych.run.secret import leaves
from triptych.telemetry.logging import get_logger

_logger = get_logger("run")

CACHE_FILE = "digests.json"

# A file that was written this recently may be written again without a change of its time.
_SETTLED_SECONDS = 2.0
_PATH_KEYS = ("path", "weights", "file", "folder", "from", "directory", "prompts", "storyboard")


class InputDigests:
    """Digests of inputs, cached by path, size, times and inode of their files.

    Args:
        cache: folder of the cache; None for none.
        run: the run's own folder, which is not hashed where it lies in an input folder.
        output_root: folder of all runs. Where an input folder contains it, the folders of runs and the cache in it are not hashed.
    """

    def __init__(self, cache: Path | None = None, *, run: Path | None = None, output_root: Path | None = None) -> None:
        self._own = None if run is None else run.resolve()
        self._output_root = None if output_root is None else output_root.resolve()
        self._path = None if cache is None else cache / CACHE_FILE
        self._known = _read(self._path)
        self._is_changed = False

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and contents of all files below a folder, without hidden ones.

        Args:
            path: an existing file or folder.
        """
        path = path.resolve()
        files = list(self._files(path, path)) if path.is_dir() else [path]
        seen = hashlib.sha256()
        newest = 0
        for file in files:
            status = file.stat()
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
            name = file.relative_to(path).as_posix()
            seen.update(json.dumps([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]).encode())
        key, fingerprint = str(path), seen.hexdigest()
        if self._known.get(key, {}).get("seen") == fingerprint:
            return str(self._known[key]["sha256"])
        if path.is_dir():
            whole = hashlib.sha256()
            for file in files:
                whole.update(json.dumps([file.relative_to(path).as_posix(), sha256(file)]).encode())
            found = whole.hexdigest()
        else:
            found = sha256(path)
        if newest / 1e9 < time.time() - _SETTLED_SECONDS:
            self._known[key] = {"seen": fingerprint, "sha256": found}
            self._is_changed = True
        return found

    def save(self) -> None:
        """Writes the cache if it has changed, with the entries that other runs have added; a failure costs later time only."""
        if self._path is None or not self._is_changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps({**_read(self._path), **self._known}, indent=1), shared=True)
        except OSError as error:
            _logger.warning("%s could not be written (%s)", self._path, error.strerror)
        self._is_changed = False

    def _files(self, folder: Path, top: Path) -> Iterator[Path]:
        """Files below a folder, without hidden ones and without what runs write."""
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if not self._is_written_by_runs(path, top):
                    yield from self._files(path, top)
            elif path.is_file():
                yield path

    def _is_written_by_runs(self, path: Path, top: Path) -> bool:
        if path == self._own:
            return True
        root = self._output_root
        if root is None or (root != top and top not in root.parents) or root not in path.parents:
            return False
        is_cache = self._path is not None and path == self._path.parent.resolve()
        return is_cache or all((path / name).is_file() for name in RUN_FILES)


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


def _read(path: Path | None) -> dict[str, dict[str, str]]:
    """The cache; a damaged one is empty."""
    try:
        known = {} if path is None else json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values()) else {}
