"""Templates of scales against those of the released model."""

from tts_var.models.templates import VAR_SIDES, infinity_scales, infinity_templates
from tts_var.numerics.scales import square_scales


def test_templates_are_those_of_the_released_model() -> None:
    assert sorted(infinity_templates()) == [0.333, 0.4, 0.5, 0.571, 0.666, 0.75, 0.8, 1.0, 1.25, 1.333, 1.5, 1.75, 2.0, 2.5, 3.0]
    assert infinity_scales(ratio=0.57).grids[-1] == (48, 84)
    assert square_scales(VAR_SIDES[256]).num_tokens == 680
