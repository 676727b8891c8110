"""TTS-VAR (arXiv 2507.18537): test-time scaling for next-scale image models.

The names below are imported on first access, since clustering imports scikit-learn.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from tts_var.data import Benchmark as Benchmark
    from tts_var.images import to_image as to_image
    from tts_var.models import NextScaleModel as NextScaleModel
    from tts_var.numerics.schedule import Event as Event
    from tts_var.numerics.schedule import SearchConfig as SearchConfig
    from tts_var.scorers import Features as Features
    from tts_var.scorers import Reward as Reward
    from tts_var.scorers import Verdict as Verdict
    from tts_var.scorers import Verifier as Verifier
    from tts_var.scorers.clip import ClipFeatures as ClipFeatures
    from tts_var.scorers.clip import ClipReward as ClipReward
    from tts_var.scorers.pixels import PixelFeatures as PixelFeatures
    from tts_var.search import Search as Search
    from tts_var.search import SearchResult as SearchResult

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Benchmark": "data",
        "ClipFeatures": "scorers.clip",
        "ClipReward": "scorers.clip",
        "Event": "numerics.schedule",
        "Features": "scorers",
        "NextScaleModel": "models",
        "PixelFeatures": "scorers.pixels",
        "Reward": "scorers",
        "Search": "search",
        "SearchConfig": "numerics.schedule",
        "SearchResult": "search",
        "Verdict": "scorers",
        "Verifier": "scorers",
        "to_image": "images",
    },
)
