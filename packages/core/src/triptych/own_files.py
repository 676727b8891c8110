"""The files that commands have written into a folder: a journal of their checksums, so that nothing else is replaced or removed."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from triptych.errors import UserError
from triptych.files import first_unused, give_default_mode, sha256, sync, write_atomically

JOURNAL = ".files.jsonl"
"""Name of the journal: one JSON object per written file, with its path in the folder and its SHA-256."""

LIVE = "live"
"""Stands in the journal instead of a checksum while a file still grows."""


class Cleared(NamedTuple):
    """What became of the files in a folder that was cleared.

    Attributes:
        removed: paths of removed files.
        kept: new paths of files that were edited since they were written.
    """

    removed: list[str]
    kept: list[str]


class OwnFiles:
    """Writes the files of one folder, and remembers them.

    A file is *own* while its content has a checksum that the journal names for its path. Every checksum is on disk before its
    file gets its name, so a kill at any moment leaves no own file unknown. A file of another origin, or an edited one, is never
    removed and never overwritten: it is renamed `<stem>.kept<suffix>` first. One process writes at a time.

    Args:
        folder: an existing folder when something is written.

    Attributes:
        folder: that folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, list[str]] | None = None  # in the order of the journal

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file atomically; keeps a file of another origin under that name aside.

        Args:
            name: path in the folder, with `/` between its parts; missing folders are made.
            content: bytes, or UTF-8 text.

        Returns:
            The path of the file.
        """
        path = self.folder / name
        content = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(content).hexdigest()
        self._make_room(name, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._note(name, digest)
        write_atomically(path, content)
        return path

    def install(self, source: Path, name: str = "") -> None:
        """Moves a file, or all files of a folder, to their names in this folder; the emptied source folder is removed.

        Args:
            source: on the same file system, finished.
            name: path of the file, or of the folder that receives the files; empty for this folder itself.
        """
        files = list(_files(source)) if source.is_dir() else [source]
        give_default_mode(files)
        names = [f"{name}/{path.relative_to(source).as_posix()}".lstrip("/") if source.is_dir() else name for path in files]
        digests = [sha256(path) for path in files]
        for own, digest in zip(names, digests, strict=True):
            self._make_room(own, digest)
        for path in files:
            sync(path)
        self._note_all(list(zip(names, digests, strict=True)))
        for path, own in zip(files, names, strict=True):
            target = self.folder / own
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for folder in {(self.folder / own).parent for own in names}:
            sync(folder)
        if source.is_dir():
            for copied in source.rglob(JOURNAL):
                copied.unlink()
            _remove_empty(source, [path.parent for path in files])

    def open_log(self, name: str, content: str) -> Path:
        """Writes a file that is going to grow; `close_log` makes it an own file."""
        path = self.write(name, content)
        self._note(name, LIVE)
        return path

    def close_log(self, name: str) -> None:
        """Notes the checksum of a file that was opened by `open_log` and has grown."""
        self._note(name, sha256(self.folder / name))

    def is_own(self, name: str) -> bool:
        """Whether a file exists under this name and has the content that a command wrote."""
        path = self.folder / name
        return path.is_file() and not path.is_symlink() and sha256(path) in self._digests().get(name, [])

    def remove(self, names: Sequence[str]) -> Cleared:
        """Removes own files, keeps edited ones aside, and removes the folders that are empty then."""
        removed, kept = [], []
        for name in names:
            path = self.folder / name
            if self.is_own(name):
                path.unlink()
                removed.append(name)
            elif path.is_symlink() or path.exists():
                kept.append(self._keep_aside(name))
            _remove_empty(self.folder, [path.parent], keep_root=True)
        return Cleared(removed, kept)

    def clear(self) -> Cleared:
        """Removes everything that commands wrote here, see `remove`, and forgets it; an empty journal stays."""
        cleared = self.remove(sorted(self._digests()))
        write_atomically(self.folder / JOURNAL, "")
        self._known = None
        return cleared

    def _make_room(self, name: str, digest: str) -> None:
        """Keeps aside what is in the way and neither own nor equal to the new content, also a file in the place of a folder."""
        parts = name.split("/")
        for end in range(1, len(parts)):
            above = self.folder / "/".join(parts[:end])
            if above.exists() and not above.is_dir():
                self._keep_aside("/".join(parts[:end]))
        path = self.folder / name
        if not (path.is_symlink() or path.exists()) or self.is_own(name):
            return
        if path.is_symlink() or path.is_dir() or sha256(path) != digest:
            if self._digests().get(name, [])[-1:] == [LIVE] and path.is_file() and not path.is_symlink():
                return  # a log of a killed process, which its resumed run continues
            self._keep_aside(name)

    def _keep_aside(self, name: str) -> str:
        path = self.folder / name
        marks = (".kept" if number == 1 else f".kept-{number}" for number in itertools.count(1))
        aside = first_unused(path.with_name(f"{path.stem}{mark}{path.suffix}") for mark in marks)
        path.rename(aside)
        return aside.relative_to(self.folder).as_posix()

    def _digests(self) -> dict[str, list[str]]:
        if self._known is None:
            self._known = {}
            for name, digest in _read(self.folder / JOURNAL):
                self._known.setdefault(name, []).append(digest)
        return self._known

    def _note(self, name: str, digest: str) -> None:
        self._note_all([(name, digest)])

    def _note_all(self, entries: Sequence[tuple[str, str]]) -> None:
        known = self._digests()
        new = [(name, digest) for name, digest in entries if known.get(name, [])[-1:] != [digest]]
        if not new:
            return
        path = self.folder / JOURNAL
        with path.open("a", encoding="utf-8") as file:
            # A line that a kill truncated must not swallow the next one.
            ragged = file.tell() > 0 and not path.read_bytes().endswith(b"\n")
            file.write(("\n" if ragged else "") + "".join(json.dumps({"path": name, "sha256": digest}) + "\n" for name, digest in new))
            file.flush()
            os.fsync(file.fileno())
        for name, digest in new:
            known.setdefault(name, []).append(digest)


def _read(journal: Path) -> Iterator[tuple[str, str]]:
    """The entries of a journal; a damaged line is skipped, so that its file counts as one of another origin."""
    try:
        lines = journal.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{journal} cannot be read ({error.strerror}): check its permissions") from error
    for line in lines:
        try:
            entry = json.loads(line)
            name, digest = str(entry["path"]), str(entry["sha256"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        # A path that leaves the folder can only have been put in by hand.
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            yield name, digest


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, without the journal of a copied one."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink() and path.name != JOURNAL)


def _remove_empty(root: Path, folders: Sequence[Path], *, keep_root: bool = False) -> None:
    """Removes the folders, and those above them up to `root`, that are empty."""
    for folder in sorted({*folders, *([] if keep_root else [root])}, key=lambda path: len(path.parts), reverse=True):
        current = folder
        while current != root.parent and current.is_relative_to(root):
            if current == root and keep_root:
                break
            try:
                current.rmdir()
            except OSError:
                break
            current = current.parent
