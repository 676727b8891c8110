"""The small world's judges: its CLIP as reward and features, and its verifier as a reward without error."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.scorers.clip import ClipFeatures, ClipReward
from tts_var.toy.clip import SmallClip
from tts_var.toy.models import model_folder
from tts_var.toy.prompts import parse_prompt
from tts_var.toy.verifier import check_image


def clip_reward(path: str | None = None, *, device: torch.device | str = "cpu") -> ClipReward:
    """Agreement of picture and prompt under the small world's CLIP.

    Args:
        path: a folder that `make train-var` wrote; None for the weights that the package ships.
        device: where the model computes.

    Raises:
        UserError: if the folder holds no reward, or one of another shape.
    """
    return ClipReward(load_clip(path, device=device))


def clip_features(path: str | None = None, *, device: torch.device | str = "cpu") -> ClipFeatures:
    """Patch tokens of the small world's CLIP; see `clip_reward`."""
    return ClipFeatures(load_clip(path, device=device))


def load_clip(path: str | None = None, *, device: torch.device | str = "cpu") -> SmallClip:
    """The small world's CLIP; see `clip_reward`."""
    folder = model_folder(path)
    model = folder.config_of("reward", SmallClip)
    folder.load("reward", model)
    return model.to(device)


class VerifierReward:
    """Share of the prompt's parts that hold, as the small world's verifier reads them: a reward without error.

    It is what the evaluation itself counts, so a search with it tells how much of a strategy's result is due to the
    reward; it is no rival of the others. Unfinished pictures hold few objects in its eyes.

    Args:
        device: where the rewards go; pictures are read on the CPU.
    """

    image_size: int | None = None
    flops_per_image = 0.0

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards in [0, 1] of pictures in [0, 1], one prompt per picture.

        Raises:
            UserError: if a prompt does not belong to the small world.
        """
        verdicts = [check_image(image.cpu(), parse_prompt(prompt)).parts for image, prompt in zip(images, prompts, strict=True)]
        return torch.tensor([sum(parts.values()) / len(parts) for parts in verdicts], device=self._device)
