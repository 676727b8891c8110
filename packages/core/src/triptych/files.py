"""Atomic writes, fsync, and classification of disk errors."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Atomically replaces the file `path` with bytes or UTF-8 text: a reader gets the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_error(error: BaseException) -> bool:
    """Whether a save failed because of the disk: an OSError, or an error that torch or safetensors raises in its stead."""
    text = str(error)
    return isinstance(error, OSError) or any(
        sign in text for sign in ("os error", "I/O error", "No space left", "unexpected pos", "PytorchStreamWriter", "file write failed")
    )


def describe_disk_error(error: BaseException) -> str:
    """The reason of a disk error, in a few words without the path."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or text
    return "No space left on device" if "unexpected pos" in text or "PytorchStreamWriter" in text else text
