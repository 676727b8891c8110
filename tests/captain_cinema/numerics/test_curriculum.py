"""The curriculum: stages, and sampling of memory policies."""

import pytest
import torch

from captain_cinema.numerics.curriculum import Stage, sample_policy, stage_at
from triptych.errors import UserError


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stages_are_consecutive_and_the_last_has_no_end() -> None:
    stages = [Stage(1, 10), Stage(8, 5), Stage(16, 5)]
    found = [stage_at(step, stages) for step in (0, 9, 10, 14, 15, 19, 25)]
    assert found == [(0, 0), (0, 9), (1, 0), (1, 4), (2, 0), (2, 4), (2, 10)]
    with pytest.raises(UserError, match="no stage"):
        stage_at(0, [])
    with pytest.raises(UserError, match="must be above 0"):
        Stage(0, 10)


def test_policies_are_sampled_in_proportion_to_their_weights() -> None:
    generator = stream(0)
    names = [sample_policy({"none": 1.0, "golden": 3.0, "never": 0.0}, generator=generator) for _ in range(4000)]
    assert names.count("never") == 0
    # Four standard errors of a fraction of 0.75 over 4000 samples.
    assert names.count("golden") / 4000 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)
    with pytest.raises(UserError, match="every weight must be 0 or more"):
        sample_policy({"none": 0.0}, generator=generator)
