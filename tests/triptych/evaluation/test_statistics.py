"""Evaluation statistics against enumeration and known distributions."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from triptych.errors import UserError
from triptych.evaluation.statistics import binomial_interval, bootstrap_interval, detectable_difference, paired_difference, pass_at_k
from triptych.seeding import generator


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_fraction_of_subsets_with_a_correct_sample(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations(range(n), k))
    fraction = sum(any(sample < c for sample in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, c, k) == pytest.approx(fraction)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 2), (4, -1, 2)])
def test_invalid_arguments_of_pass_at_k_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(UserError):
        pass_at_k(n, c, k)


def test_the_bootstrap_interval_is_that_of_the_binomial() -> None:
    values = torch.cat([torch.ones(300), torch.zeros(700)])
    interval = bootstrap_interval(values, generator=generator(0), num_resamples=5000)
    half_width = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert interval.mean == pytest.approx(0.3)
    # With 5000 resamples the 2.5 % quantile is accurate to about 4 % of the half width.
    assert interval.low == pytest.approx(0.3 - half_width, abs=0.15 * half_width)
    assert interval.high == pytest.approx(0.3 + half_width, abs=0.15 * half_width)


def test_intervals_cover_the_mean_at_their_confidence() -> None:
    noise = generator(1)
    covered = 0
    for _ in range(300):
        interval = bootstrap_interval((torch.rand(80, generator=noise) < 0.4).float(), generator=noise, confidence=0.9, num_resamples=400)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.84 < covered / 300 < 0.95  # 0.9 with a standard deviation of 0.017, less the bootstrap's known shortfall


def test_pairing_resolves_a_difference_that_two_intervals_do_not() -> None:
    noise = generator(2)
    before = torch.rand(200, generator=noise)
    after = before + 0.05 + 0.01 * torch.randn(200, generator=noise)
    paired = paired_difference(before, after, generator=noise)
    assert paired.low > 0.04
    assert paired.high < 0.06
    assert bootstrap_interval(before, generator=noise).high > bootstrap_interval(after, generator=noise).low


def test_a_comparison_of_different_problems_and_an_empty_average_are_refused() -> None:
    with pytest.raises(UserError, match="3 problems before and 2 after"):
        paired_difference(torch.zeros(3), torch.zeros(2), generator=generator(0))
    with pytest.raises(UserError, match="no value to average"):
        bootstrap_interval(torch.zeros(0), generator=generator(0))


def test_intervals_are_a_function_of_their_generator() -> None:
    values = torch.rand(50, generator=generator(3))
    assert bootstrap_interval(values, generator=generator(4)) == bootstrap_interval(values, generator=generator(4))


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_binomial_interval_is_scipys(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    found, expected = binomial_interval(successes, trials), binomtest(successes, trials).proportion_ci(method="wilson")
    assert found.mean == successes / trials
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_paired_test_detects_the_detectable_difference_four_times_in_five() -> None:
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 50, generator=stream, dtype=torch.float64)
    zeros = torch.zeros(50)
    differences = noise + 2.8 / 50**0.5  # a standard deviation of 1
    assert detectable_difference(zeros, noise[0]) == pytest.approx(2.8 * float(noise[0].std()) / 50**0.5)
    statistics = differences.mean(1) / (differences.std(1) / 50**0.5)
    assert 0.77 < float((statistics > 1.96).double().mean()) < 0.83
    with pytest.raises(UserError, match="two or more"):
        detectable_difference(zeros[:1], zeros[:1])
