"""The curriculum: stages, and the mixture of memories."""

import pytest
import torch

from captain_cinema.numerics.curriculum import Stage, sample_policy, stage_at
from triptych.errors import UserError


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stages_follow_one_another_and_the_last_goes_on() -> None:
    stages = [Stage(1, 10), Stage(8, 5), Stage(16, 5)]
    found = [stage_at(step, stages) for step in (0, 9, 10, 14, 15, 19, 25)]
    assert found == [(0, 0), (0, 9), (1, 0), (1, 4), (2, 0), (2, 4), (2, 10)]
    with pytest.raises(UserError, match="no stage"):
        stage_at(0, [])
    with pytest.raises(UserError, match="must be above 0"):
        Stage(0, 10)


def test_policies_are_drawn_in_proportion() -> None:
    generator = stream(0)
    drawn = [sample_policy({"none": 1.0, "golden": 3.0, "never": 0.0}, generator=generator) for _ in range(4000)]
    assert drawn.count("never") == 0
    assert drawn.count("golden") / 4000 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)
    with pytest.raises(UserError, match="shares"):
        sample_policy({"none": 0.0}, generator=generator)
