"""Guidance, truncation of the distribution, and sampling by inversion."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.numerics.sampling import filter_logits, guided_logits, invert_cumulative


def test_guidance_of_one_is_the_condition() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    assert torch.equal(guided_logits(conditional, unconditional, 1.0), conditional)
    # 3 * 1 - 2 * 0.5 = 2 and 3 * 2 - 2 * (-1) = 8
    assert torch.equal(guided_logits(conditional, unconditional, 3.0), torch.tensor([2.0, 8.0]))


# Integers, so that rounding does not decide the order of nearly equal classes.
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8, unique=True), st.floats(0.05, 0.95))
def test_top_p_keeps_the_likeliest_and_their_mass(logits: list[int], top_p: float) -> None:
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    kept = torch.isfinite(filter_logits(torch.tensor(logits, dtype=torch.float64), top_p=top_p))
    # Slow reference: remove classes in ascending order while their total mass is at most 1 - top_p.
    mass, expected = 0.0, [True] * len(logits)
    for index in probabilities.argsort().tolist()[:-1]:
        mass += float(probabilities[index])
        if mass <= 1 - top_p:
            expected[index] = False
    assert kept.tolist() == expected
    assert kept[probabilities.argmax()]


def test_top_k_keeps_k() -> None:
    assert torch.isfinite(filter_logits(torch.tensor([0.1, 3.0, 2.0, -1.0]), top_k=2)).tolist() == [False, True, True, False]


def test_inversion_follows_the_distribution() -> None:
    probabilities = torch.tensor([[[0.2, 0.5, 0.3]]])
    for uniform, expected in ((0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 2), (0.999999, 2)):
        assert invert_cumulative(probabilities, torch.tensor([[uniform]])).item() == expected
    certain = torch.tensor([[[1.0, 0.0]]])
    assert invert_cumulative(certain, torch.tensor([[0.99999999]])).item() == 0
