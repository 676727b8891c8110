"""Scales: the published grids."""

import pytest

from tts_var.models.templates import infinity_scales


@pytest.mark.parametrize(("size", "tokens"), [("0.06M", 521), ("0.25M", 2521), ("0.60M", 6425), ("1M", 10521)])
def test_square_sequences_have_the_published_lengths(size: str, tokens: int) -> None:
    assert infinity_scales(size).num_tokens == tokens
