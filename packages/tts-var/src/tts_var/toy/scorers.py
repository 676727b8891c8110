"""Scorers of the small world: its CLIP as reward and features, and its verifier as a reward."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.scorers.clip import ClipFeatures, ClipReward
from tts_var.toy.clip import SmallClip
from tts_var.toy.models import SHIPPED
from tts_var.toy.prompts import parse_prompt
from tts_var.toy.verifier import check_image


def clip_reward(path: str | None = None, *, device: torch.device | str = "cpu") -> ClipReward:
    """Similarity of image and prompt under the small world's CLIP.

    Args:
        path: a folder written by `make train-var`; None for the shipped weights.
        device: device of the model.

    Raises:
        UserError: if the folder contains no reward, or one of another shape.
    """
    return ClipReward(load_clip(path, device=device))


def clip_features(path: str | None = None, *, device: torch.device | str = "cpu") -> ClipFeatures:
    """Patch tokens of the small world's CLIP; see `clip_reward`."""
    return ClipFeatures(load_clip(path, device=device))


def load_clip(path: str | None = None, *, device: torch.device | str = "cpu") -> SmallClip:
    """The small world's CLIP; see `clip_reward`."""
    folder = SHIPPED.folder(path)
    model = folder.config_of("reward", SmallClip)
    folder.load("reward", model)
    return model.to(device)


class VerifierReward:
    """Fraction of the prompt's parts that hold according to the small world's verifier: an oracle reward.

    The evaluation uses the same verifier, so a search with it measures how much of a strategy's result is due to errors of
    the reward; it is not a baseline. In unfinished images it detects few objects.

    Args:
        device: device of the rewards; the verifier runs on the CPU.
    """

    image_size: int | None = None
    flops_per_image = 0.0

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards in [0, 1] of images in [0, 1], one prompt per image.

        Raises:
            UserError: if a prompt is not in the grammar of the small world.
        """
        verdicts = [check_image(image.cpu(), parse_prompt(prompt)).parts for image, prompt in zip(images, prompts, strict=True)]
        return torch.tensor([sum(parts.values()) / len(parts) for parts in verdicts], device=self._device)
