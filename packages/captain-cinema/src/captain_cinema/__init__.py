"""Captain Cinema (arXiv 2507.18634): generates keyframes from a storyline and a short film from the keyframes.

The names below are imported lazily, on first use: writing films requires PyAV and Pillow.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from captain_cinema.conditioning import MemoryPolicy as MemoryPolicy
    from captain_cinema.data.storyboard import Shot as Shot
    from captain_cinema.data.storyboard import Storyboard as Storyboard
    from captain_cinema.data.storyboard import read_storyboard as read_storyboard
    from captain_cinema.images import read_image as read_image
    from captain_cinema.images import to_bytes as to_bytes
    from captain_cinema.models import CaptionEmbeddings as CaptionEmbeddings
    from captain_cinema.models import Frames as Frames
    from captain_cinema.models import KeyframeModel as KeyframeModel
    from captain_cinema.models import LatentSpace as LatentSpace
    from captain_cinema.models.mmdit import SmallMMDiT as SmallMMDiT
    from captain_cinema.movie import Planner as Planner
    from captain_cinema.movie.files import write_film as write_film
    from captain_cinema.numerics.memory import MemoryPlan as MemoryPlan
    from captain_cinema.numerics.memory import compress as compress
    from captain_cinema.numerics.memory import golden_sides as golden_sides
    from captain_cinema.numerics.memory import plan_memory as plan_memory
    from captain_cinema.sampling import Keyframe as Keyframe
    from captain_cinema.sampling import KeyframeSampler as KeyframeSampler
    from captain_cinema.sampling import Reference as Reference
    from captain_cinema.sampling import SamplingConfig as SamplingConfig
    from captain_cinema.video import Clip as Clip
    from captain_cinema.video import VideoGenerator as VideoGenerator
    from captain_cinema.video.diffusion import DiffusionClips as DiffusionClips
    from captain_cinema.video.interpolation import CameraMoves as CameraMoves

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "CameraMoves": "video.interpolation",
        "CaptionEmbeddings": "models",
        "Clip": "video",
        "DiffusionClips": "video.diffusion",
        "SamplingConfig": "sampling",
        "Frames": "models",
        "Keyframe": "sampling",
        "KeyframeModel": "models",
        "KeyframeSampler": "sampling",
        "LatentSpace": "models",
        "MemoryPlan": "numerics.memory",
        "MemoryPolicy": "conditioning",
        "Planner": "movie",
        "Reference": "sampling",
        "Shot": "data.storyboard",
        "SmallMMDiT": "models.mmdit",
        "Storyboard": "data.storyboard",
        "VideoGenerator": "video",
        "compress": "numerics.memory",
        "golden_sides": "numerics.memory",
        "plan_memory": "numerics.memory",
        "read_image": "images",
        "read_storyboard": "data.storyboard",
        "to_bytes": "images",
        "write_film": "movie.files",
    },
    renamed={"DrawingConfig": "SamplingConfig", "read_picture": "read_image"},
)
