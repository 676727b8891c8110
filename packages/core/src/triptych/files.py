"""Atomic writes, fsync, checksums, strict reading of JSON and YAML, and classification of disk errors."""

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from triptych.errors import UserError


def write_atomically(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Atomically replaces the file `path` with bytes or UTF-8 text: a reader gets the old content or the new, never a part.

    Args:
        path: the file.
        content: its new content.
        shared: whether several processes may write it at one moment; a killed one then leaves a partial file that no other replaces.
    """
    own = f".{secrets.token_hex(4)}" if shared else ""
    partial = path.with_name(f".{path.name}{own}.partial")
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


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_unused(candidates: Iterable[Path]) -> Path:
    """The first of the paths under which nothing exists, not even a dangling link."""
    return next(path for path in candidates if not path.exists() and not path.is_symlink())


def give_default_mode(paths: list[Path]) -> None:
    """Gives files the permissions that the user's umask gives new ones; safetensors makes its files readable by their owner only."""
    if not paths:
        return
    # The umask can only be read by changing it, for all threads; a new file shows it.
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".mode-") as folder:
        probe = Path(folder) / "probe"
        probe.touch()
        mode = probe.stat().st_mode & 0o777
    for path in paths:
        path.chmod(mode)


def read_json(path: Path, remedy: str) -> Any:
    """The value of a JSON file.

    Args:
        path: the file, UTF-8.
        remedy: end of the error message, such as `train the model again`.

    Raises:
        UserError: if the file cannot be read, or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): {remedy}") from error
    return parse_json(text, str(path), remedy)


def parse_json(text: str, source: str, remedy: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        source: its origin, for the error message.
        remedy: end of the error message.

    Raises:
        UserError: if it is not JSON, or nested too deep for Python's parser.

    Example:
        >>> parse_json("[1", "a.json", "fix it")
        Traceback (most recent call last):
        ...
        triptych.errors.UserError: a.json is not JSON (Expecting ',' delimiter: line 1 column 3 (char 2)): fix it
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}): {remedy}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deep: {remedy}") from None


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: if the file cannot be read, or does not hold a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): {remedy}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())[:120]}): {remedy}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep: {remedy}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no table of settings: {remedy}")
    return tree


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


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return describe_disk_error(error) if isinstance(error, OSError) else "not UTF-8"
