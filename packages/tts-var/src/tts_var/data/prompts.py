"""Parsing of prompts from a config value: a text, a list of texts, or a file."""

from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.files import describe_disk_error


def read_prompts(value: Any) -> list[str]:
    """Prompts from a config value: a text, a list of texts, or the path of a text file with one per line.

    Raises:
        UserError: if the file cannot be read or contains no prompt.
    """
    if isinstance(value, list | tuple):
        prompts = [str(item).strip() for item in value]
    else:
        text = str(value)
        path = Path(text)
        if path.suffix in (".txt", ".prompts") or _is_file(path):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except OSError as error:
                raise UserError(
                    f"prompts={path} cannot be read ({describe_disk_error(error)}): give a text file, or the prompt itself"
                ) from error
            except UnicodeDecodeError as error:
                raise UserError(f"prompts={path} is not UTF-8 text: save it as plain text with one prompt per line") from error
            prompts = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        else:
            prompts = [text.strip()]
    if not [prompt for prompt in prompts if prompt]:
        raise UserError(f"prompts={value} contains no prompt: write one per line")
    return prompts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a prompt may exceed the maximum length of a file name
        return False
