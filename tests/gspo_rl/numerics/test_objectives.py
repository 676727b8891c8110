"""The objectives against their definitions, two peers' formulas, finite differences and their own properties."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gspo_rl.numerics.objectives import ObjectiveOutput, grpo, gspo, gspo_token
from triptych.errors import UserError

PAPER_GSPO = {"clip_low": 3e-4, "clip_high": 4e-4}
PAPER_GRPO = {"clip_low": 0.2, "clip_high": 0.27}

# Every loss is a sum of at most 12 float32 terms of size about 1: a few units of float32 rounding.
FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}

Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(seed: int, *, rows: int = 6, tokens: int = 12, move: float = 1e-3) -> Problem:
    """Random log-probabilities, old ones moved by about `move`, advantages of both signs, ragged masks."""
    noise = torch.Generator().manual_seed(seed)
    logprobs = -3 * torch.rand(rows, tokens, generator=noise)
    old = logprobs + move * torch.randn(rows, tokens, generator=noise)
    advantages = torch.randn(rows, generator=noise)
    lengths = torch.randint(1, tokens, (rows,), generator=noise)
    start = torch.randint(0, tokens // 2, (rows,), generator=noise)
    position = torch.arange(tokens)
    mask = (position >= start[:, None]) & (position < (start + lengths)[:, None])
    return logprobs, old, advantages, mask


def gspo_by_definition(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float) -> list[float]:
    """Equations 5 and 7 with Python floats, which are float64, and loops."""
    losses = []
    for row in range(len(logprobs)):
        chosen = [t for t in range(logprobs.shape[1]) if mask[row, t]]
        if not chosen:
            losses.append(0.0)
            continue
        mean = sum(float(logprobs[row, t].double() - old[row, t].double()) for t in chosen) / len(chosen)
        ratio, advantage = math.exp(mean), float(advantages[row])
        losses.append(-min(ratio * advantage, min(max(ratio, 1 - clip_low), 1 + clip_high) * advantage))
    return losses


def grpo_by_definition(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float) -> list[float]:
    """Equations 2 and 3 with Python floats and loops."""
    losses = []
    for row in range(len(logprobs)):
        chosen = [t for t in range(logprobs.shape[1]) if mask[row, t]]
        advantage, total = float(advantages[row]), 0.0
        for t in chosen:
            ratio = math.exp(float(logprobs[row, t].double() - old[row, t].double()))
            total += min(ratio * advantage, min(max(ratio, 1 - clip_low), 1 + clip_high) * advantage)
        losses.append(-total / len(chosen) if chosen else 0.0)
    return losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("move", [1e-4, 1e-2, 0.5])
def test_gspo_is_its_definition(seed: int, move: float) -> None:
    case = problem(seed, move=move)
    expected = gspo_by_definition(*case, **PAPER_GSPO)
    torch.testing.assert_close(gspo(*case, **PAPER_GSPO).losses, torch.tensor(expected), **FLOAT32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("move", [1e-4, 1e-2, 0.5])
def test_grpo_is_its_definition(seed: int, move: float) -> None:
    case = problem(seed, move=move)
    expected = grpo_by_definition(*case, **PAPER_GRPO)
    torch.testing.assert_close(grpo(*case, **PAPER_GRPO).losses, torch.tensor(expected), **FLOAT32)


def trl(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, sequence: bool, clip_low: float, clip_high: float) -> Tensor:
    """TRL 1.10, `importance_sampling_level` sequence or token with `loss_type="grpo"`: mean over rows, fully masked ones included."""
    m, delta = mask.to(logprobs.dtype), logprobs - old
    length = m.sum(1).clamp(min=1.0)
    log_weight = ((delta * m).sum(1) / length)[:, None] if sequence else delta
    weight = log_weight.exp()
    per_token = -torch.minimum(weight * advantages[:, None], weight.clamp(1 - clip_low, 1 + clip_high) * advantages[:, None])
    return ((per_token * m).sum(1) / length).mean()


def verl(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, sequence: bool, clip_low: float, clip_high: float) -> Tensor:
    """verl 0.10, `gspo` and `vanilla` losses with `seq-mean-token-mean`: ratios capped (exp of 10; of -20 to 20), lengths plus 1e-8.

    The vanilla loss also has a dual clip: for negative advantages at most -3 A.
    """
    m, delta = mask.to(logprobs.dtype), logprobs - old
    if sequence:
        mean = (delta * m).sum(1) / m.sum(1).clamp(min=1.0)
        weight = (logprobs - logprobs.detach() + mean.detach()[:, None]).clamp(max=10.0).exp()
    else:
        weight = delta.clamp(-20.0, 20.0).exp()
    a = advantages[:, None]
    per_token = torch.maximum(-a * weight, -a * weight.clamp(1 - clip_low, 1 + clip_high))
    if not sequence:
        per_token = torch.where(a < 0, torch.minimum(per_token, -3.0 * a), per_token)
    return ((per_token * m).sum(1) / (m.sum(1) + 1e-8)).sum() / len(logprobs)


@pytest.mark.parametrize("peer", [trl, verl])
@pytest.mark.parametrize(
    ("objective", "sequence", "clip"),
    [(gspo, True, PAPER_GSPO), (gspo_token, True, PAPER_GSPO), (grpo, False, PAPER_GRPO)],
)
@pytest.mark.parametrize("move", [1e-3, 0.3])
def test_value_and_gradient_agree_with_the_peers(
    peer: Callable[..., Tensor], objective: Callable[..., ObjectiveOutput], sequence: bool, clip: dict[str, float], move: float
) -> None:
    for seed in range(5):
        logprobs, old, advantages, mask = problem(seed, move=move)
        ours, theirs = logprobs.clone().requires_grad_(), logprobs.double().requires_grad_()
        loss = objective(ours, old, advantages, mask, **clip).losses.mean()
        reference = peer(theirs, old.double(), advantages.double(), mask, sequence=sequence, **clip)
        # verl's 1e-8 beside a length is below the resolution of float32.
        torch.testing.assert_close(loss.double(), reference, **FLOAT32)
        torch.testing.assert_close(*[torch.autograd.grad(x, v)[0].double() for x, v in ((loss, ours), (reference, theirs))], **FLOAT32)


def test_gspo_token_equals_gspo_in_value_and_gradient_at_one_advantage_per_sequence() -> None:
    for seed in range(20):
        logprobs, old, advantages, mask = problem(seed, move=10.0 ** -(seed % 4))
        outcomes = []
        for objective in (gspo, gspo_token):
            variable = logprobs.clone().requires_grad_()
            output = objective(variable, old, advantages, mask, **PAPER_GSPO)
            outcomes.append((output, torch.autograd.grad(output.losses.sum(), variable)[0]))
        (first, first_gradient), (second, second_gradient) = outcomes
        torch.testing.assert_close(first.losses, second.losses, **FLOAT32)
        torch.testing.assert_close(first_gradient, second_gradient, **FLOAT32)
        assert torch.equal(first.metrics["clipped"], second.metrics["clipped"])
        assert torch.equal(first.metrics["outside"], second.metrics["outside"])


@pytest.mark.parametrize("objective", [gspo, gspo_token])
def test_the_gradient_is_that_of_finite_differences(objective: Callable[..., ObjectiveOutput]) -> None:
    """gspo_token's value does not depend on a single token's log-probability through sg[s], so both are compared with gspo's value."""
    noise = torch.Generator().manual_seed(3)
    logprobs = -torch.rand(3, 5, generator=noise)
    old = logprobs + torch.tensor([[0.002], [0.0], [-0.002]])  # s below, at and above 1; far from the kinks for one sign each
    advantages, mask = torch.tensor([1.5, -0.7, -2.0]), torch.ones(3, 5, dtype=torch.bool)
    variable = logprobs.clone().requires_grad_()
    gradient = torch.autograd.grad(objective(variable, old, advantages, mask, **PAPER_GSPO).losses.sum(), variable)[0]
    step = 1e-5
    for row in range(3):
        for token in range(5):
            values = []
            for sign in (1, -1):
                moved = logprobs.double().clone()
                moved[row, token] += sign * step
                values.append(sum(gspo_by_definition(moved, old.double(), advantages, mask, **PAPER_GSPO)))
            # Central differences err by step^2 and float64 rounding over step: 1e-10; the gradient itself is float32.
            assert float(gradient[row, token]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_token_level_advantages_weigh_each_token_by_its_own() -> None:
    logprobs, old, _, _ = problem(0, rows=1, tokens=2, move=0.0)
    variable, mask = logprobs.clone().requires_grad_(), torch.ones(1, 2, dtype=torch.bool)
    output = gspo_token(variable, old, torch.tensor([[2.0, -4.0]]), mask, **PAPER_GSPO)
    # s = 1: the loss is -(2 - 4) / 2 = 1, and each token's gradient is -A_t / 2.
    assert output.losses.item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(output.losses.sum(), variable)[0], torch.tensor([[-1.0, 2.0]]), **FLOAT32)


ALL: list[Any] = [
    pytest.param(partial(gspo, **PAPER_GSPO), id="gspo"),
    pytest.param(partial(gspo_token, **PAPER_GSPO), id="gspo_token"),
    pytest.param(partial(grpo, **PAPER_GRPO), id="grpo"),
]


@pytest.mark.parametrize("objective", ALL)
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), padding=st.integers(0, 7), garbage=st.sampled_from([0.0, -1e30, math.inf, math.nan]))
def test_padding_has_no_effect_whatever_it_holds(
    objective: Callable[..., ObjectiveOutput], seed: int, padding: int, garbage: float
) -> None:
    logprobs, old, advantages, mask = problem(seed)
    plain = logprobs.clone().requires_grad_()
    expected = objective(plain, old, advantages, mask)
    wide = torch.where(mask, logprobs, garbage)
    wide = torch.nn.functional.pad(wide, (0, padding), value=garbage).requires_grad_()
    wide_old = torch.nn.functional.pad(torch.where(mask, old, garbage), (0, padding), value=garbage)
    output = objective(wide, wide_old, advantages, torch.nn.functional.pad(mask, (0, padding)))
    torch.testing.assert_close(output.losses, expected.losses, **FLOAT32)
    gradient = torch.autograd.grad(output.losses.sum(), wide)[0]
    torch.testing.assert_close(gradient[:, : mask.shape[1]], torch.autograd.grad(expected.losses.sum(), plain)[0], **FLOAT32)
    assert torch.equal(output.metrics["clipped"].sum(1), expected.metrics["clipped"].sum(1))


@pytest.mark.parametrize("objective", ALL)
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_rows_are_independent(objective: Callable[..., ObjectiveOutput], seed: int, cut: int) -> None:
    case = problem(seed)
    whole = objective(*case).losses
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    shuffled = [tensor[order] for tensor in case]
    parts = torch.cat([objective(*(tensor[:cut] for tensor in shuffled)).losses, objective(*(tensor[cut:] for tensor in shuffled)).losses])
    torch.testing.assert_close(parts, whole[order], **FLOAT32)


@pytest.mark.parametrize("objective", ALL)
def test_an_unmoved_policy_has_ratio_one_and_the_policy_gradient(objective: Callable[..., ObjectiveOutput]) -> None:
    logprobs, _, advantages, mask = problem(1)
    variable = logprobs.clone().requires_grad_()
    output = objective(variable, logprobs, advantages, mask)
    assert torch.equal(output.metrics["log_ratio"], torch.zeros_like(output.metrics["log_ratio"]))
    assert not output.metrics["clipped"].any()
    assert not output.metrics["outside"].any()
    assert torch.equal(output.metrics["ratio_clip_widths"], torch.zeros_like(output.metrics["ratio_clip_widths"]))
    # REINFORCE with length normalisation: -A_i / |y_i| on every response token.
    expected = torch.where(mask, -advantages[:, None] / mask.sum(1, keepdim=True), 0.0)
    torch.testing.assert_close(torch.autograd.grad(output.losses.sum(), variable)[0], expected, **FLOAT32)


@pytest.mark.parametrize("objective", ALL)
def test_a_row_without_response_has_loss_and_gradient_zero(objective: Callable[..., ObjectiveOutput]) -> None:
    logprobs, old, advantages, mask = problem(2)
    mask[0] = False
    variable = logprobs.clone().requires_grad_()
    output = objective(variable, old, advantages, mask)
    assert output.losses[0] == 0
    gradient = torch.autograd.grad(output.losses.sum(), variable)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()


@pytest.mark.parametrize("objective", [partial(gspo, allow_wide_clip=True), partial(gspo_token, allow_wide_clip=True), grpo])
def test_without_a_clip_in_reach_the_loss_is_the_unclipped_surrogate(objective: Callable[..., ObjectiveOutput]) -> None:
    logprobs, old, advantages, mask = problem(4, move=0.1)
    output = objective(logprobs, old, advantages, mask, clip_low=0.999999, clip_high=1e9)
    assert not output.metrics["clipped"].any()
    delta = torch.where(mask, logprobs - old, 0.0).double()
    if objective is grpo:
        expected = torch.where(mask, delta.exp(), 0.0).sum(1) / mask.sum(1) * -advantages
    else:
        expected = -(delta.sum(1) / mask.sum(1)).exp() * advantages
    torch.testing.assert_close(output.losses.double(), expected.double(), **FLOAT32)


@pytest.mark.parametrize(("log_ratio", "advantage", "clipped", "outside"), [
    (5e-4, 1.0, True, True),     # above the range and to be raised further: no gradient
    (5e-4, -1.0, False, True),   # above, but to be lowered: a gradient
    (-5e-4, -1.0, True, True),
    (-5e-4, 1.0, False, True),
    (1e-4, 1.0, False, False),
    (5e-4, 0.0, False, True),    # no gradient to clip
])  # fmt: skip
def test_the_clip_indicators_distinguish_clipped_from_outside(log_ratio: float, advantage: float, clipped: bool, outside: bool) -> None:
    old, mask = torch.zeros(1, 4), torch.tensor([[False, True, True, True]])
    for objective in (gspo, gspo_token):
        variable = torch.full((1, 4), log_ratio, requires_grad=True)
        output = objective(variable, old, torch.tensor([advantage]), mask, **PAPER_GSPO)
        assert output.metrics["clipped"].tolist() == [[False] + 3 * [clipped]]
        assert output.metrics["outside"].tolist() == [[False] + 3 * [outside]]
        no_gradient = not torch.autograd.grad(output.losses.sum(), variable)[0].any()
        assert no_gradient == (clipped or advantage == 0)


def test_the_ratio_in_clip_widths_is_one_at_the_edge_of_the_trust_region() -> None:
    edges = torch.tensor([[math.log1p(4e-4)], [math.log1p(-3e-4)], [2 * math.log1p(4e-4)]])
    output = gspo(edges, torch.zeros(3, 1), torch.ones(3), torch.ones(3, 1, dtype=torch.bool), **PAPER_GSPO)
    torch.testing.assert_close(output.metrics["ratio_clip_widths"], torch.tensor([1.0, 1.0, 2.0]), rtol=1e-6, atol=1e-6)


def test_bfloat16_inputs_are_computed_in_float32() -> None:
    logprobs, old, advantages, mask = problem(5, move=0.1)
    low = gspo(logprobs.bfloat16(), old.bfloat16(), advantages, mask, **PAPER_GSPO)
    exact = gspo(logprobs.bfloat16().float(), old.bfloat16().float(), advantages, mask, **PAPER_GSPO)
    assert low.losses.dtype == torch.float32
    assert torch.equal(low.losses, exact.losses)


@pytest.mark.parametrize("objective", [gspo, gspo_token])
def test_a_sequence_clip_that_can_never_fire_is_refused(objective: Callable[..., ObjectiveOutput]) -> None:
    case = problem(0)
    with pytest.raises(UserError, match=r"0\.2 .*can never fire.*allow_wide_clip=true"):
        objective(*case, clip_low=0.2, clip_high=0.27)
    objective(*case, clip_low=0.2, clip_high=0.27, allow_wide_clip=True)
    objective(*case, clip_low=0.02, clip_high=0.02)


@pytest.mark.parametrize("objective", [gspo, gspo_token, grpo])
@pytest.mark.parametrize("clip", [(-0.1, 0.01), (1.0, 0.01), (0.01, -0.1)])
def test_invalid_clip_widths_are_refused(objective: Callable[..., ObjectiveOutput], clip: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="clip_low"):
        objective(*problem(0), clip_low=clip[0], clip_high=clip[1])


@pytest.mark.parametrize("objective", ALL)
def test_every_sequence_has_weight_one_whatever_its_tokens(objective: Callable[..., ObjectiveOutput]) -> None:
    """The trainer needs the weights before the first forward: they depend on the mask alone."""
    logprobs, old, mask = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3, 5) > 0.4
    output = objective(logprobs, old, torch.randn(3), mask, behavior_logprobs=old)
    before_forward = objective(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3), mask)
    assert output.weights.tolist() == before_forward.weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("objective", [gspo, gspo_token, grpo])
@pytest.mark.parametrize(("log_ratio", "advantage"), [(500.0, 1.0), (500.0, 0.0), (-500.0, -1.0), (-500.0, 0.0)])
def test_a_ratio_that_overflows_where_the_clip_holds_has_gradient_zero(
    objective: Callable[..., ObjectiveOutput], log_ratio: float, advantage: float
) -> None:
    logprobs = torch.zeros(1, 3, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    losses = objective(logprobs, torch.full((1, 3), -log_ratio), torch.tensor([advantage]), mask, clip_low=3e-4, clip_high=4e-4).losses
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, 0.0, 0.0]]
    torch.testing.assert_close(losses, torch.tensor([-advantage * (1 + 4e-4 if log_ratio > 0 else 1 - 3e-4)]))
