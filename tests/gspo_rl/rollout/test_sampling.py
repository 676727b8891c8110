"""Sampling from a truncated distribution."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gspo_rl.rollout.sampling import SamplingConfig, sample_tokens
from triptych.errors import UserError


@given(seed=st.integers(0, 10**6), number=st.floats(0, 1, exclude_max=True), top_k=st.integers(0, 6), top_p=st.floats(0.05, 1.0))
def test_a_sample_inverts_the_truncated_distribution(seed: int, number: float, top_k: int, top_p: float) -> None:
    logits = 2 * torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
    sampling = SamplingConfig(temperature=0.8, top_k=top_k, top_p=top_p)
    sampled = sample_tokens(logits, torch.tensor([number], dtype=torch.float64), sampling)
    full = torch.softmax(logits[0].double() / 0.8, -1).tolist()
    ranked = sorted(range(8), key=lambda token: -full[token])[: top_k or 8]
    mass, kept = sum(full[token] for token in ranked), set()
    held = 0.0
    for token in ranked:
        if held / mass >= top_p:
            break
        kept.add(token)
        held += full[token]
    token = int(sampled.tokens)
    below = sum(full[other] for other in kept if other < token)
    near_a_boundary = any(abs(value / held - number) < 1e-5 for value in (below, below + full[token])) or abs(held / mass - top_p) < 0.02
    assert near_a_boundary or (token in kept and below / held <= number < (below + full[token]) / held)
    assert float(sampled.logprobs) == pytest.approx(math.log(full[token]), abs=1e-5)  # of the full softmax, not the truncated one


def test_a_token_of_probability_zero_is_never_sampled() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    sampled = sample_tokens(logits, torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64), SamplingConfig())
    assert sampled.tokens.tolist() == [1, 3, 3]


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_invalid_sampling_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sampling.{next(iter(wrong))}"):
        SamplingConfig(**wrong)
