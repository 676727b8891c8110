"""Rank correlation against scipy, and averages over prompts."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tts_var.data.prompts import CATEGORIES, evaluation_prompts
from tts_var.evaluation import Outcome, by_category, per_prompt, spearman


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    found = float(spearman(first[None], second[None])[0])
    if first.unique().numel() == 1 or second.unique().numel() == 1:
        assert found == 0
    else:
        assert abs(found - spearmanr(first, second).statistic) < 1e-9


def test_scores_are_means_over_seeds_and_categories() -> None:
    prompts = evaluation_prompts(12, seed=0)
    outcomes = [Outcome(index, seed, index < 6 and seed == 0, True, 1.0, 1, 1.0, 1, 0.0) for seed in (0, 1) for index in range(12)]
    scores = per_prompt(outcomes, 12)
    assert scores.tolist() == [0.5] * 6 + [0.0] * 6
    assert by_category(scores, prompts) == dict.fromkeys(CATEGORIES, 0.25)
