"""The step of a checkpoint, kept inside of it."""

import json
from pathlib import Path

from triptych.errors import UserError
from triptych.files import read_json


class LoopState:
    """The step of a checkpoint, inside of it; refuses a checkpoint that stands under the name of another step.

    Args:
        step: of the checkpoint to save; None for one to load.
        is_main: whether this rank writes.
        fingerprint: see `Run.phase`.
    """

    _FILE = "loop.json"

    def __init__(self, step: int | None, is_main: bool, fingerprint: str | None) -> None:
        self._content = {"step": step, "fingerprint": fingerprint}
        self._is_main = is_main

    @classmethod
    def fingerprint_in(cls, checkpoint: Path) -> str | None:
        """The fingerprint in a checkpoint; None if it holds none."""
        try:
            content = read_json(checkpoint / "loop" / cls._FILE, "")
        except UserError:
            return None
        return content.get("fingerprint") if isinstance(content, dict) else None

    def save(self, directory: Path) -> None:
        """Writes the step into `directory`."""
        if self._is_main:
            (directory / self._FILE).write_text(json.dumps(self._content))

    def load(self, directory: Path) -> None:
        """Compares the step with the name of the checkpoint's folder.

        Raises:
            UserError: if they differ.
        """
        step = read_json(directory / self._FILE, "choose another checkpoint by resume_step=")["step"]
        name = f"step_{step:08d}"
        if directory.parent.name != name:
            raise UserError(f"{directory.parent} holds the state of step {step}: rename the folder back to {name}")
