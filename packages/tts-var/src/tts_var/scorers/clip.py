"""Reward and features from a model that embeds images and prompts into one space (CLIP)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.models.clip import ImageTextModel, similarity


class ClipReward:
    """Similarity of image and prompt, `100 * cosine`.

    Args:
        model: embeds images and prompts, on any device.
        image_size: longest side of its input in pixels; None for the full image.
    """

    def __init__(self, model: ImageTextModel, *, image_size: int | None = None) -> None:
        self.model = model
        self.image_size = image_size
        self.flops_per_image = model.flops_per_image

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards of images in [0, 1], one prompt per image."""
        # Each distinct prompt is encoded once, then gathered per image: texts (rows, width).
        distinct = list(dict.fromkeys(prompts))
        texts = self.model.embed_texts(distinct)[[distinct.index(prompt) for prompt in prompts]]
        return 100 * similarity(self.model.embed_images(images)[0], texts)


class ClipFeatures:
    """Patch tokens of the image tower, for clustering.

    Args:
        model: embeds images, on any device.
        image_size: longest side of its input in pixels; None for the full image.
    """

    def __init__(self, model: ImageTextModel, *, image_size: int | None = None) -> None:
        self.model = model
        self.image_size = image_size
        self.flops_per_image = model.flops_per_image

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens channels"]:
        """Patch tokens of images in [0, 1]."""
        return self.model.embed_images(images)[1]
