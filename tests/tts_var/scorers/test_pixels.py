"""Pixel features: mean colours of grid cells."""

import torch

from tts_var.scorers.pixels import PixelFeatures


def test_tokens_are_the_mean_colours_of_cells_row_by_row() -> None:
    images = torch.rand(2, 3, 12, 12)
    found = PixelFeatures(grid=3)(images)
    assert found.shape == (2, 9, 3)
    for cell in range(9):
        row, column = divmod(cell, 3)
        part = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(found[:, cell], part.mean((2, 3)))
