"""Rank correlation against scipy, and averages over prompts."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tts_var.evaluation import Outcome, by_category, gain_over, per_prompt, spearman
from tts_var.toy.benchmark import SmallWorldBenchmark
from tts_var.toy.prompts import CATEGORIES


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    found = float(spearman(first[None], second[None])[0])
    if first.unique().numel() == 1 or second.unique().numel() == 1:
        assert found == 0
    else:
        assert abs(found - spearmanr(first, second).statistic) < 1e-9


def test_scores_are_means_over_seeds_and_categories() -> None:
    prompts = SmallWorldBenchmark().prompts(12, seed=0)
    outcomes = [Outcome(index, seed, index < 6 and seed == 0, True, 1.0, 1, 1.0, 1, 0.0) for seed in (0, 1) for index in range(12)]
    scores = per_prompt(outcomes, 12)
    assert scores.tolist() == [0.5] * 6 + [0.0] * 6
    assert by_category(scores, prompts, CATEGORIES) == dict.fromkeys(CATEGORIES, 0.25)


def test_a_strategy_that_fulfils_more_has_a_positive_gain() -> None:
    def outcomes(fulfilled: int) -> list[Outcome]:
        return [Outcome(index, 0, index < fulfilled, True, 1.0, 1, 1.0, 1, None) for index in range(40)]

    gain = gain_over(outcomes(10), outcomes(30), 40, generator=torch.Generator().manual_seed(0))
    assert gain.mean == 0.5
    assert 0.3 < gain.low < 0.5 < gain.high < 0.7  # the standard error is sqrt(.25 / 40) = .08
