"""Potentials and weights against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.numerics.potentials import POTENTIALS, effective_sample_size, log_weights, potential

HISTORIES = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=6)


@given(HISTORIES)
def test_potentials_are_their_definitions(history: list[list[float]]) -> None:
    rewards = torch.tensor(history, dtype=torch.float32)
    expected = {
        "value": [row[-1] for row in rewards.tolist()],
        "difference": [row[-1] - row[-2] for row in rewards.tolist()],
        "maximum": [max(row) for row in rewards.tolist()],
        "sum": [math.fsum(row) for row in rewards.tolist()],
    }
    for name in POTENTIALS:
        assert potential(rewards, name).tolist() == pytest.approx(expected[name], abs=1e-5)


def test_difference_of_one_reward_is_the_reward() -> None:
    assert potential(torch.tensor([[2.0], [3.0]]), "difference").tolist() == [2.0, 3.0]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0, 20), st.floats(-100, 100))
def test_weights_sum_to_one_and_ignore_a_shift(potentials: list[float], strength: float, shift: float) -> None:
    weights = log_weights(torch.tensor(potentials, dtype=torch.float64), strength).exp()
    shifted = log_weights(torch.tensor(potentials, dtype=torch.float64) + shift, strength).exp()
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(weights, shifted, atol=1e-9, rtol=1e-6)


def test_strength_zero_is_uniform_and_large_is_finite() -> None:
    potentials = torch.tensor([1.0, 2.0, 100.0])
    torch.testing.assert_close(log_weights(potentials, 0.0).exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert float(effective_sample_size(log_weights(potentials, 0.0))) == pytest.approx(3)
    # exp(10 * 100) overflows even float64; the log-weights do not.
    assert torch.isfinite(log_weights(potentials, 10.0)).all()
    assert float(effective_sample_size(log_weights(potentials, 10.0))) == pytest.approx(1)
