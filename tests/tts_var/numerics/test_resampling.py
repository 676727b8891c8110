"""Resampling schemes: unbiased with replacement, and a function of the generator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.numerics.resampling import SCHEMES, resample


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_resampling_with_replacement_is_unbiased(scheme: str) -> None:
    weights = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    generator, counts, repeats = stream(), torch.zeros(3), 4000
    for _ in range(repeats):
        counts += torch.bincount(resample(weights.log(), 4, scheme, generator=generator), minlength=3)
    # Standard error of a fraction is at most sqrt(.25 / 16000) = .004: four of them.
    torch.testing.assert_close(counts / counts.sum(), weights.float(), atol=0.016, rtol=0)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_systematic_resampling_rounds_the_expected_count(count: int, seed: int) -> None:
    weights = torch.rand(5, generator=stream(seed), dtype=torch.float64)
    weights /= weights.sum()
    counts = torch.bincount(resample(weights.log(), count, "systematic", generator=stream(seed + 1)), minlength=5)
    assert ((counts - count * weights).abs() < 1 + 1e-9).all()


def test_without_replacement_is_sequential_sampling() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    generator, first, pairs, repeats = stream(), torch.zeros(3), 0, 4000
    for _ in range(repeats):
        kept = resample(weights.log(), 2, "without_replacement", generator=generator).tolist()
        assert len(set(kept)) == 2
        first[kept[0]] += 1
        pairs += set(kept) == {0, 1}
    torch.testing.assert_close(first / repeats, weights.float(), atol=0.035, rtol=0)
    # P({0, 1}) = .5 * .3 / .5 + .3 * .5 / .7 = .3 + .2143
    assert pairs / repeats == pytest.approx(0.5143, abs=0.035)


def test_top_keeps_the_largest_weights() -> None:
    assert resample(torch.tensor([0.1, 0.6, 0.3]).log(), 2, "top", generator=stream()).tolist() == [1, 2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_is_a_function_of_its_generator(scheme: str) -> None:
    weights = torch.tensor([0.1, 0.6, 0.3]).log()
    assert torch.equal(resample(weights, 2, scheme, generator=stream(5)), resample(weights, 2, scheme, generator=stream(5)))
