"""The manifest of a checkpoint: its step, and the size and checksum of every file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from triptych.errors import UserError
from triptych.files import give_default_mode, read_json, sha256, sync

MANIFEST = "manifest.json"


class Entry(NamedTuple):
    """One file of a checkpoint.

    Attributes:
        num_bytes: size.
        sha256: checksum, hexadecimal.
    """

    num_bytes: int
    sha256: str


def write_manifest(folder: Path, step: int) -> None:
    """Hashes all files in a folder, and forces them and their manifest to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    give_default_mode(files)
    entries = {}
    for path in files:
        sync(path)
        entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": entries}, indent=1))
    sync(folder / MANIFEST)
    for parent in {path.parent for path in files} | {folder}:
        sync(parent)


def read_manifest(folder: Path) -> tuple[int, dict[str, Entry]]:
    """Step and files of a checkpoint.

    Raises:
        UserError: if the manifest is missing or damaged.
    """
    manifest: Any = read_json(folder / MANIFEST, "choose another checkpoint")
    try:
        files = {str(name): Entry(int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        return int(manifest["step"]), files
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST} is not the manifest of a checkpoint: choose another checkpoint") from None


def damage_of(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, in a few words that begin with the file; None if it is intact.

    Args:
        folder: of the checkpoint.
        step: that the folder's name states.
    """
    try:
        written, expected = read_manifest(folder)
    except UserError:
        return f"{MANIFEST} is missing or unreadable"
    if written != step:
        return f"{MANIFEST} is of step {written}, rename the folder back to step_{written:08d}"
    # The folder itself holds further subfolders only where a component wrote no file.
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    extra = sorted(found - set(expected))
    if extra:
        return f"{extra[0]} is not in {MANIFEST}"
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry.num_bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {entry.num_bytes}"
        if sha256(path) != entry.sha256:
            return f"{name} does not match its checksum"
    return None


def remove_listed(folder: Path) -> bool:
    """Removes the files of a checkpoint, and the folder if nothing else is in it.

    A file that differs from its entry stays. Its content is read only where its size or times leave a doubt.

    Returns:
        Whether the folder is gone.
    """
    try:
        _, entries = read_manifest(folder)
    except UserError:
        entries = {}
    manifest = folder / MANIFEST
    for name, entry in entries.items():
        path = folder / name
        if path.is_file() and not path.is_symlink() and _is_unchanged(path, entry, manifest):
            path.unlink()
    if entries or not any(path.is_file() for path in folder.rglob("*") if path != manifest):
        manifest.unlink(missing_ok=True)
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        _remove_if_empty(inner)
    return _remove_if_empty(folder)


def _is_unchanged(path: Path, entry: Entry, manifest: Path) -> bool:
    status = path.stat()
    if status.st_size != entry.num_bytes:
        return False
    # The manifest was written last.
    return status.st_mtime_ns <= manifest.stat().st_mtime_ns or sha256(path) == entry.sha256


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
