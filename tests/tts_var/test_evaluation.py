"""Rank correlation against scipy, and averages over prompts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from triptych.evaluation.statistics import Interval
from tts_var import schedules
from tts_var.evaluation import Outcome, by_category, equal_compute, gain_over, per_prompt, spearman, summarize
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


def test_a_search_is_compared_with_the_best_of_n_of_its_compute() -> None:
    strategies = {
        "single": schedules.single(),
        "best_of_2": schedules.best_of_n(2),
        "best_of_4": schedules.best_of_n(4),
        "ours": schedules.tts_var(),
    }
    operations = {"single": 1.0, "best_of_2": 2.0, "best_of_4": 4.0}
    for own, expected in ((2.2, "best_of_2"), (3.6, "best_of_4"), (2.8, None)):
        assert equal_compute("ours", strategies, {**operations, "ours": own}) == expected
    assert equal_compute("best_of_2", strategies, operations) is None

    def outcomes(fulfilled: int, flops: float) -> list[Outcome]:
        return [Outcome(index, 0, index < fulfilled, True, flops, 1, 1.0, 1, None) for index in range(18)]

    rows = {"best_of_2": outcomes(6, 2.0), "ours": outcomes(9, 2.1)}
    scores = dict.fromkeys(rows, Interval(0.5, 0.4, 0.6))
    prompts = SmallWorldBenchmark().prompts(18, seed=0)
    found = summarize(rows, scores, strategies, prompts, CATEGORIES, seed=0, confidence=0.95)["ours"]["over_equal_compute"]
    assert (found["baseline"], found["mean"]) == ("best_of_2", pytest.approx(3 / 18))
    assert found["flops_ratio"] == pytest.approx(1.05)
    # Differences: 3 ones and 15 zeros, of variance 18 / 17 * 1 / 6 * 5 / 6.
    assert found["detectable"] == pytest.approx(2.8 * (18 / 17 * 5 / 36) ** 0.5 / 18**0.5)
