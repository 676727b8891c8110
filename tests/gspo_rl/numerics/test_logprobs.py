"""Token scores, whole and in chunks."""

import math

import pytest
import torch
from torch import Tensor

from gspo_rl.numerics.logprobs import TokenScores, token_scores, token_scores_from_hidden


def by_definition(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    logprobs, entropies = [], []
    for row, token in zip(logits.double().tolist(), tokens.tolist(), strict=True):
        weights = [math.exp(value / temperature) for value in row]
        probabilities = [weight / sum(weights) for weight in weights]
        logprobs.append(math.log(probabilities[token]))
        entropies.append(-sum(p * math.log(p) for p in probabilities))
    return logprobs, entropies


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_scores_are_their_definition(temperature: float) -> None:
    noise = torch.Generator().manual_seed(0)
    logits, tokens = 3 * torch.randn(20, 11, generator=noise), torch.randint(11, (20,), generator=noise)
    logprobs, entropies = by_definition(logits, tokens, temperature)
    scores = token_scores(logits, tokens, temperature=temperature)
    torch.testing.assert_close(scores.logprobs, torch.tensor(logprobs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.entropy, torch.tensor(entropies), rtol=1e-5, atol=1e-6)


def test_a_token_of_probability_zero_leaves_the_entropy_finite() -> None:
    scores = token_scores(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([0]))
    assert scores.entropy.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
def test_chunked_scores_match_whole_ones_forward_and_backward(chunk_tokens: int) -> None:
    noise = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(10, 8, generator=noise), torch.randn(23, 8, generator=noise)
    tokens, weights = torch.randint(23, (10,), generator=noise), torch.randn(10, generator=noise)
    outcomes: list[tuple[TokenScores, tuple[Tensor, ...]]] = []
    for chunked in (False, True):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if chunked:
            scores = token_scores_from_hidden(h, w, tokens, temperature=0.7, chunk_tokens=chunk_tokens)
        else:
            scores = token_scores(h @ w.T, tokens, temperature=0.7)
        outcomes.append((scores, torch.autograd.grad((scores.logprobs * weights).sum(), (h, w))))
    (whole, whole_gradients), (parts, part_gradients) = outcomes
    torch.testing.assert_close(parts.logprobs, whole.logprobs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.entropy, whole.entropy, rtol=1e-6, atol=1e-6)
    # The head's gradient is summed chunk by chunk, in another order.
    torch.testing.assert_close(part_gradients, whole_gradients, rtol=1e-5, atol=1e-5)


def test_no_more_than_one_chunk_of_logits_is_kept_for_the_backward() -> None:
    hidden, head = torch.randn(64, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    largest = 0

    def remember(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        token_scores_from_hidden(hidden, head, torch.zeros(64, dtype=torch.long), chunk_tokens=8)
    assert largest <= 1000 * 8  # the head itself; one chunk's logits have as many numbers, all logits eight times as many
