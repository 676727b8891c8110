"""Conversion of tensors to images: rounding, orientation and range."""

import numpy as np
import torch

from tts_var.images import to_image


def test_pixels_are_the_rounded_values() -> None:
    tensor = torch.rand(3, 4, 5)
    image = to_image(tensor)
    assert image.size == (5, 4)
    assert np.abs(np.asarray(image) / 255 - tensor.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert np.asarray(to_image(torch.tensor([-1.0, 2.0, 0.5])[:, None, None].expand(3, 1, 1)))[0, 0].tolist()[:2] == [0, 255]
