"""Captain Cinema (arXiv 2507.18634): a storyline becomes keyframes, keyframes become a short movie.

The names below are loaded when they are first used: films bring PyAV and Pillow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captain_cinema.conditioning import MemoryPolicy as MemoryPolicy
    from captain_cinema.film import read_picture as read_picture
    from captain_cinema.film import to_bytes as to_bytes
    from captain_cinema.film import write_film as write_film
    from captain_cinema.keyframes import DrawingConfig as DrawingConfig
    from captain_cinema.keyframes import Keyframe as Keyframe
    from captain_cinema.keyframes import KeyframeSampler as KeyframeSampler
    from captain_cinema.keyframes import Reference as Reference
    from captain_cinema.memory import MemoryPlan as MemoryPlan
    from captain_cinema.memory import compress as compress
    from captain_cinema.memory import golden_sides as golden_sides
    from captain_cinema.memory import plan_memory as plan_memory
    from captain_cinema.models import FrameGroup as FrameGroup
    from captain_cinema.models import KeyframeModel as KeyframeModel
    from captain_cinema.models.mmdit import SmallMMDiT as SmallMMDiT
    from captain_cinema.planner import plan_storyboard as plan_storyboard
    from captain_cinema.small_model import load_clips as load_clips
    from captain_cinema.small_model import load_keyframe_model as load_keyframe_model
    from captain_cinema.storyboard import Shot as Shot
    from captain_cinema.storyboard import Storyboard as Storyboard
    from captain_cinema.storyboard import read_storyboard as read_storyboard
    from captain_cinema.video.interpolation import CameraMoves as CameraMoves
    from captain_cinema.video.mmdit import DiffusionClips as DiffusionClips

__version__ = "0.1.0"

_HOME = {
    "CameraMoves": "video.interpolation",
    "DiffusionClips": "video.mmdit",
    "DrawingConfig": "keyframes",
    "FrameGroup": "models",
    "Keyframe": "keyframes",
    "KeyframeModel": "models",
    "KeyframeSampler": "keyframes",
    "MemoryPlan": "memory",
    "MemoryPolicy": "conditioning",
    "Reference": "keyframes",
    "Shot": "storyboard",
    "SmallMMDiT": "models.mmdit",
    "Storyboard": "storyboard",
    "compress": "memory",
    "golden_sides": "memory",
    "load_clips": "small_model",
    "load_keyframe_model": "small_model",
    "plan_memory": "memory",
    "plan_storyboard": "planner",
    "read_picture": "film",
    "read_storyboard": "storyboard",
    "to_bytes": "film",
    "write_film": "film",
}

__all__ = ["__version__", *_HOME]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'captain_cinema' has no attribute '{name}'")
    return getattr(import_module(f"captain_cinema.{_HOME[name]}"), name)
