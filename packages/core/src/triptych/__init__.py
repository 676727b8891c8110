"""The core of Triptych: runs, distribution, checkpoints, evaluation, tracking and reports.

The names below are imported on first use, so `import triptych.errors` stays light.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from triptych.checkpoint import Saveable as Saveable
    from triptych.checkpoint.checkpointer import CheckpointConfig as CheckpointConfig
    from triptych.checkpoint.checkpointer import Checkpointer as Checkpointer
    from triptych.distributed import World as World
    from triptych.errors import UserError as UserError
    from triptych.run.config import RunConfig as RunConfig
    from triptych.run.session import Run as Run
    from triptych.telemetry.tracking import Tracker as Tracker

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "CheckpointConfig": "checkpoint.checkpointer",
        "Checkpointer": "checkpoint.checkpointer",
        "Run": "run.session",
        "RunConfig": "run.config",
        "Saveable": "checkpoint",
        "Tracker": "telemetry.tracking",
        "UserError": "errors",
        "World": "distributed",
    },
)
