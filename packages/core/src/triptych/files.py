"""Files that are whole or absent, and what a disk says when it refuses."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file `path` by bytes, or a text in UTF-8, in one step: a reader sees the old content or the new, never a part."""
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
    """Whether a failed save is the disk's fault: an OSError, or what torch and safetensors make of one."""
    text = str(error)
    return isinstance(error, OSError) or any(
        sign in text for sign in ("os error", "I/O error", "No space left", "unexpected pos", "PytorchStreamWriter", "file write failed")
    )


def describe_disk_error(error: BaseException) -> str:
    """The reason of a disk error in a few words."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or text
    return "No space left on device" if "unexpected pos" in text or "PytorchStreamWriter" in text else text
