"""Reward and features by a model that embeds pictures and prompts into one space."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.models.clip import ImageTextModel, similarity


class ClipReward:
    """Agreement of picture and prompt, as `100 * cosine`.

    Args:
        model: embeds both, wherever it is.
        image_size: longest side in pixels that it looks at; None for the full picture.
    """

    def __init__(self, model: ImageTextModel, *, image_size: int | None = None) -> None:
        self.model = model
        self.image_size = image_size
        self.flops_per_image = model.flops_per_image

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards of pictures in [0, 1], one prompt per picture."""
        distinct = list(dict.fromkeys(prompts))
        texts = self.model.embed_texts(distinct)[[distinct.index(prompt) for prompt in prompts]]
        return 100 * similarity(self.model.embed_images(images)[0], texts)


class ClipFeatures:
    """Patch tokens of the image tower, for clustering.

    Args:
        model: embeds pictures, wherever it is.
        image_size: longest side in pixels that it looks at; None for the full picture.
    """

    def __init__(self, model: ImageTextModel, *, image_size: int | None = None) -> None:
        self.model = model
        self.image_size = image_size
        self.flops_per_image = model.flops_per_image

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens channels"]:
        """Patch tokens of pictures in [0, 1]."""
        return self.model.embed_images(images)[1]
