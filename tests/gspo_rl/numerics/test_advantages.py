"""Group-relative advantages."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gspo_rl.numerics.advantages import group_relative_advantages, zero_advantage_groups
from triptych.errors import UserError

REWARD = st.floats(-10, 10, width=32)


@given(rewards=st.lists(REWARD, min_size=2, max_size=16))
def test_advantages_are_standard_scores_of_the_group(rewards: list[float]) -> None:
    advantages = group_relative_advantages(torch.tensor([rewards], dtype=torch.float32))[0].tolist()
    if max(rewards) == min(rewards):
        assert advantages == [0.0] * len(rewards)
        return
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    # The result is rounded to float32 once; scores of n samples are below sqrt(n) = 4.
    assert advantages == pytest.approx([(reward - mean) / deviation for reward in rewards], abs=1e-5, rel=1e-6)


@given(value=REWARD, size=st.integers(2, 33))
def test_a_group_of_equal_rewards_gets_exactly_zero(value: float, size: int) -> None:
    rewards = torch.full((1, size), value)
    assert (group_relative_advantages(rewards) == 0).all()
    assert zero_advantage_groups(rewards).all()


@given(st.lists(st.booleans(), min_size=2, max_size=16), st.floats(0.015625, 8, width=32), st.integers(-8, 8))
def test_advantages_do_not_depend_on_scale_and_shift_of_rewards(correct: list[bool], scale: float, shift: int) -> None:
    rewards = torch.tensor([correct], dtype=torch.float32)
    # A shift of 8 beside a spread of 1/64 loses 2^-24 * 8 / (1/64) = 3e-5 of the rewards themselves.
    torch.testing.assert_close(group_relative_advantages(rewards * scale + shift), group_relative_advantages(rewards), atol=3e-4, rtol=0)


def test_a_tiny_spread_is_not_shrunk_by_an_epsilon() -> None:
    assert group_relative_advantages(torch.tensor([[0.0, 1e-6]])).tolist() == [[pytest.approx(-(0.5**0.5)), pytest.approx(0.5**0.5)]]


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="group_size is 1"):
        group_relative_advantages(torch.ones(4, 1))


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        group_relative_advantages(torch.tensor([[1.0, float("nan")]]))
