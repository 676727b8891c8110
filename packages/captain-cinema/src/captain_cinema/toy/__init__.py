"""Tiny cinema: rendered stories with verifiable details, captions, a planner, a verifier and small models.

The names below are imported lazily, on first use.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from captain_cinema.toy.clips import TinyClips as TinyClips
    from captain_cinema.toy.dataset import TinyCinema as TinyCinema
    from captain_cinema.toy.models import load_clips as load_clips
    from captain_cinema.toy.models import load_keyframe_model as load_keyframe_model
    from captain_cinema.toy.planner import plan_storyboard as plan_storyboard
    from captain_cinema.toy.verifier import TinyCinemaVerifier as TinyCinemaVerifier

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "TinyCinema": "dataset",
        "TinyCinemaVerifier": "verifier",
        "TinyClips": "clips",
        "load_clips": "models",
        "load_keyframe_model": "models",
        "plan_storyboard": "planner",
    },
)
