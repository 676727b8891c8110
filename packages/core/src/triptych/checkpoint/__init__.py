"""Checkpoints and model folders; the contract of what a checkpoint is made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Writer = Callable[[], None]
"""Writes a state that was copied before; runs in a thread beside the training on every rank that has one."""


class Saveable(Protocol):
    """A component of a checkpoint: it owns one folder and writes whatever it likes there."""

    def save(self, directory: Path) -> Writer | None:
        """Writes the component's state into the existing folder `directory`, or copies it and returns what will write it.

        Called on every rank. What is small may be written at once; what is large is copied, so that the training goes
        on while the disk works. A writer may not use the default process group, which the training goes on to use.
        """
        ...

    def load(self, directory: Path) -> None:
        """Restores, in place, what `save` wrote; called on every rank."""
        ...
