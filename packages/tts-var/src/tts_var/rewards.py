"""What resampling looks at; each is reached by name from a config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.data.checker import check_image
from tts_var.data.prompts import parse_prompt
from tts_var.models.clip import ClipConfig, SmallClip, similarity
from tts_var.small_model import model_folder


class _ClipJudge:
    """What reward and features share: the model, and where it comes from.

    Args:
        model: the small world's CLIP.
    """

    image_size: int | None = None

    def __init__(self, model: SmallClip) -> None:
        self.model = model.eval()
        self.flops_per_image = model.flops_per_image

    @property
    def device(self) -> torch.device:
        """Where the model computes; pictures are brought there."""
        return self.model.clip.positional_embedding.device

    @classmethod
    def from_folder(cls, path: str | Path | None = None) -> Self:
        """Reads the CLIP of a model folder; None for the one that the package ships.

        Raises:
            UserError: if the folder holds no reward, or one of another shape.
        """
        folder = model_folder(path)
        model = folder.config_of("reward", ClipConfig).build()
        folder.load("reward", model)
        return cls(model)


class ClipReward(_ClipJudge):
    """Agreement of picture and prompt under the small world's CLIP, as `100 * cosine`."""

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards of pictures in [0, 1], one prompt per picture."""
        distinct = list(dict.fromkeys(prompts))
        texts = self.model.embed_texts(distinct)[[distinct.index(prompt) for prompt in prompts]]
        return 100 * similarity(self.model.embed_images(images.to(self.device))[0], texts)


class CheckerReward:
    """Share of the prompt's parts that hold, as the small world's checker reads them: a judge without error.

    It is what the evaluation itself counts, so a search with it tells how much of a strategy's result is due to the
    reward; it is no rival of the others. Unfinished pictures hold few objects in its eyes.
    """

    image_size: int | None = None
    flops_per_image = 0.0

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards in [0, 1] of pictures in [0, 1], one prompt per picture.

        Raises:
            UserError: if a prompt does not belong to the small world.
        """
        verdicts = [check_image(image.cpu(), parse_prompt(prompt)).parts for image, prompt in zip(images, prompts, strict=True)]
        return torch.tensor([sum(parts.values()) / len(parts) for parts in verdicts])


class ClipFeatures(_ClipJudge):
    """Patch tokens of the image tower of the small world's CLIP, for clustering."""

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens channels"]:
        """Patch tokens of pictures in [0, 1]."""
        return self.model.embed_images(images.to(self.device))[1]
