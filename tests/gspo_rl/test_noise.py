"""The noise floor: zero for equal scores, in units of the clip range, against numbers worked out by hand."""

import functools
import math

import pytest
import torch

from gspo_rl.data.batch import Batch
from gspo_rl.noise import noise_floor
from gspo_rl.numerics.objectives import ObjectiveOutput, gspo
from triptych.distributed import World

GSPO = functools.partial(gspo, clip_low=3e-4, clip_high=4e-4)
MASK = torch.tensor([[False, True, True], [False, True, False]])
SAMPLER = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]])
BATCH = Batch(torch.ones(2, 3, dtype=torch.long), MASK, SAMPLER, torch.zeros(2), torch.zeros(2))


def test_the_noise_of_equal_scores_is_zero() -> None:
    found = noise_floor(lambda batch, tokens: SAMPLER, GSPO, BATCH, World())
    assert set(found) == {f"noise/{pair}_{name}" for pair in ("sampler", "batching") for name in ("bias", "spread", "clip_widths")}
    assert set(found.values()) == {0.0}


def test_the_noise_is_that_of_the_mean_log_ratio_in_clip_widths() -> None:
    first = torch.tensor([[0.0, 2e-4, 4e-4], [0.0, -1e-4, 0.0]])  # mean log ratios 3e-4 and -1e-4
    budgets: list[int | None] = []

    def score(batch: Batch, tokens: int | None) -> torch.Tensor:
        budgets.append(tokens)
        return SAMPLER + first + (0.0 if tokens is None else 2e-4 * MASK)

    found = noise_floor(score, GSPO, BATCH, World())
    assert budgets == [None, 3]
    assert found["noise/sampler_bias"] == pytest.approx(1e-4, abs=1e-7)
    assert found["noise/sampler_spread"] == pytest.approx(2e-4, abs=1e-7)
    widths = (3e-4 / math.log1p(4e-4), 1e-4 / -math.log1p(-3e-4))
    assert found["noise/sampler_clip_widths"] == pytest.approx(math.sqrt((widths[0] ** 2 + widths[1] ** 2) / 2), rel=2e-3)
    assert found["noise/batching_bias"] == pytest.approx(2e-4, abs=2e-7)
    assert found["noise/batching_spread"] == pytest.approx(0.0, abs=2e-7)
    assert found["noise/batching_clip_widths"] == pytest.approx(2e-4 / math.log1p(4e-4), rel=2e-3)


def test_an_objective_without_a_ratio_has_no_noise_floor() -> None:
    def plain(logprobs: torch.Tensor, *arguments: object, **options: object) -> ObjectiveOutput:
        return ObjectiveOutput(logprobs.sum(1), torch.ones(2), {})

    assert noise_floor(lambda batch, tokens: SAMPLER, plain, BATCH, World()) == {}
