"""Learning-rate schedules, parameter groups, and one step of AdamW."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at, parameter_groups, set_learning_rate


@given(st.integers(0, 20), st.integers(30, 100), st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1))
def test_rates_rise_during_warm_up_and_never_after_it(warmup: int, total: int, schedule: str, final: float) -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=warmup, schedule=schedule, final_fraction=final)
    rates = [learning_rate_at(step, total, config) for step in range(total + 5)]
    assert rates[:warmup] == pytest.approx([2.0 * (step + 1) / warmup for step in range(warmup)])
    assert rates[warmup] == pytest.approx(2.0)
    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[-1] == pytest.approx(2.0 if schedule == "constant" else 2.0 * final)


def test_the_cosine_has_decayed_by_half_in_the_middle() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", final_fraction=0.1)
    assert learning_rate_at(25, 100, config) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate_at(50, 100, config) == pytest.approx(0.55)


def test_vectors_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[0].weight.requires_grad_(True)
    matrices, vectors = parameter_groups(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert matrices["params"] == [model[0].weight]
    assert len(vectors["params"]) == 3  # type: ignore[arg-type]


def test_one_step_of_adamw_equals_its_definition() -> None:
    model = nn.Linear(2, 2, bias=False)
    weight = model.weight.detach().clone()
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
    optimizer = build_adamw(model, config)
    set_learning_rate(optimizer, 0.01)
    gradient = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    model.weight.grad = gradient
    optimizer.step()
    # First step: both moments are unbiased to g and g^2, so the update is the sign, plus decoupled decay.
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 0.01 * 0.5) - 0.01 * gradient.sign(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"learning_rate": -1.0}, {"schedule": "staircase"}, {"max_grad_norm": 0.0}, {"warmup_steps": -1}])
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"optimizer.{next(iter(wrong))}"):
        OptimizerConfig(**wrong)  # type: ignore[arg-type]


def test_a_rate_that_is_left_to_a_rule_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"optimizer\.learning_rate is null: give a rate"):
        learning_rate_at(0, 10, OptimizerConfig(learning_rate=None))
