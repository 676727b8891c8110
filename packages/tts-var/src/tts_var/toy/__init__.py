"""The small world: rendered images of coloured objects, captions in GenEval's six categories, a verifier, and a small model.

The names below are imported on first access.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from tts_var.toy.dataset import SmallWorld as SmallWorld
    from tts_var.toy.models import load_small_world as load_small_world
    from tts_var.toy.prompts import parse_prompt as parse_prompt
    from tts_var.toy.scorers import VerifierReward as VerifierReward
    from tts_var.toy.scorers import clip_features as clip_features
    from tts_var.toy.scorers import clip_reward as clip_reward
    from tts_var.toy.verifier import check_image as check_image
    from tts_var.toy.verifier import verify as verify

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "VerifierReward": "scorers",
        "SmallWorld": "dataset",
        "check_image": "verifier",
        "clip_features": "scorers",
        "clip_reward": "scorers",
        "load_small_world": "models",
        "parse_prompt": "prompts",
        "verify": "verifier",
    },
    renamed={"CheckerReward": "VerifierReward"},
)
