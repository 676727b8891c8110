"""Checkpoints and model folders; contract of the components of a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Writer = Callable[[], None]
"""Writes a state that was copied before; runs in a background thread on every rank that returned one."""


class Saveable(Protocol):
    """A component of a checkpoint: it owns one folder and the format of the files in it."""

    def save(self, directory: Path) -> Writer | None:
        """Writes the component's state into the existing folder `directory`, or copies it and returns a writer.

        Called on every rank. Small states may be written at once; large ones are copied, so that training continues
        during the write. A writer must not use the default process group, which training uses meanwhile.
        """
        ...

    def load(self, directory: Path) -> None:
        """Restores, in place, what `save` wrote; called on every rank."""
        ...
