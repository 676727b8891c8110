"""The common ground of Triptych: runs, distribution, checkpoints, evaluation, tracking and reports.

The names below are loaded when they are first used: `import triptych.errors` stays as light as a formula needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych.checkpoint import CheckpointConfig, Checkpointer, Saveable
    from triptych.distributed import World
    from triptych.errors import UserError
    from triptych.run import Run, RunConfig
    from triptych.tracking import Tracker

__version__ = "0.1.0"

__all__ = ["CheckpointConfig", "Checkpointer", "Run", "RunConfig", "Saveable", "Tracker", "UserError", "World", "__version__"]

_HOMES = {
    "CheckpointConfig": "checkpoint",
    "Checkpointer": "checkpoint",
    "Run": "run",
    "RunConfig": "run",
    "Saveable": "checkpoint",
    "Tracker": "tracking",
    "UserError": "errors",
    "World": "distributed",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"triptych.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'triptych' has no attribute '{name}'")
