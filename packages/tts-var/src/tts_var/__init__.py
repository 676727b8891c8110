"""TTS-VAR (arXiv 2507.18537): test-time scaling for next-scale image models.

The names below are loaded when they are first used: the reward brings open_clip and torchvision, clustering brings scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts_var.batch_schedule import Event as Event
    from tts_var.batch_schedule import SearchConfig as SearchConfig
    from tts_var.data.checker import check_image as check_image
    from tts_var.data.prompts import parse_prompt as parse_prompt
    from tts_var.features import PixelFeatures as PixelFeatures
    from tts_var.pictures import to_image as to_image
    from tts_var.rewards import CheckerReward as CheckerReward
    from tts_var.rewards import ClipFeatures as ClipFeatures
    from tts_var.rewards import ClipReward as ClipReward
    from tts_var.search import Search as Search
    from tts_var.search import SearchResult as SearchResult
    from tts_var.small_model import load_small_world as load_small_world

__version__ = "0.1.0"

_HOME = {
    "CheckerReward": "rewards",
    "ClipFeatures": "rewards",
    "ClipReward": "rewards",
    "Event": "batch_schedule",
    "PixelFeatures": "features",
    "Search": "search",
    "SearchConfig": "batch_schedule",
    "SearchResult": "search",
    "check_image": "data.checker",
    "load_small_world": "small_model",
    "parse_prompt": "data.prompts",
    "to_image": "pictures",
}

__all__ = ["__version__", *_HOME]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tts_var' has no attribute '{name}'")
    return getattr(import_module(f"tts_var.{_HOME[name]}"), name)
