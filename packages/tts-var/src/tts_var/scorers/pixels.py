"""Downsampled pixels as features for clustering, without a model."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class PixelFeatures:
    """Downsampled pixels: one token per grid cell, its channels are the mean colour. Needs no weights.

    Args:
        grid: cells per side.
        image_size: longest side of its input in pixels; None for the full image.
        device: device of the computation.
    """

    flops_per_image = 0.0

    def __init__(self, *, grid: int = 8, image_size: int | None = None, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.image_size = image_size
        self._grid = grid

    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens 3"]:
        """Mean colours of a grid of cells."""
        return functional.adaptive_avg_pool2d(images.to(self._device), self._grid).flatten(2).transpose(1, 2)
