"""Log-probabilities of given tokens and the entropies of their distributions."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class TokenScores(NamedTuple):
    """Log-probabilities and entropies at given tokens, float32.

    Attributes:
        logprobs: log pi(token).
        entropy: entropy in nats of the distribution at that position, without gradient.
    """

    logprobs: Float[Tensor, "*batch"]
    entropy: Float[Tensor, "*batch"]


def token_scores(logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"], *, temperature: float = 1.0) -> TokenScores:
    """Scores of `tokens` under softmax(logits / temperature), computed in float32.

    Args:
        logits: unnormalised log-probabilities of any float dtype.
        tokens: token ids in [0, vocab).
        temperature: divisor of the logits, above 0: the one that the tokens were sampled with.

    Example:
        >>> scores = token_scores(torch.zeros(1, 4), torch.tensor([2]))
        >>> torch.allclose(scores.logprobs.exp(), torch.tensor([0.25])), torch.allclose(scores.entropy.exp(), torch.tensor([4.0]))
        (True, True)
    """
    log_distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
    logprobs = log_distribution.gather(-1, tokens[..., None]).squeeze(-1)
    with torch.no_grad():
        # exp(-inf) * -inf is nan: a token of probability 0 adds nothing to the entropy.
        probabilities = log_distribution.exp()
        entropy = -torch.where(probabilities > 0, probabilities * log_distribution, 0.0).sum(dim=-1)
    return TokenScores(logprobs, entropy)


def token_scores_from_hidden(
    hidden: Float[Tensor, "positions hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    tokens: Int[Tensor, " positions"],
    *,
    temperature: float = 1.0,
    chunk_tokens: int,
) -> TokenScores:
    """`token_scores(hidden @ head_weight.T, tokens)` with the logits of one chunk in memory at a time.

    Each chunk's logits are recomputed in the backward pass, which trades one more product with the head for
    memory of order `chunk_tokens * vocab` instead of `positions * vocab`.

    Args:
        hidden: final hidden states at the positions that predict `tokens`.
        head_weight: weight of the output head, without bias.
        tokens: token ids in [0, vocab).
        temperature: divisor of the logits, above 0.
        chunk_tokens: positions per chunk.
    """

    def score(hidden_chunk: Tensor, weight: Tensor, token_chunk: Tensor) -> TokenScores:
        return token_scores(hidden_chunk @ weight.T, token_chunk, temperature=temperature)

    parts = [
        checkpoint(score, hidden[start : start + chunk_tokens], head_weight, tokens[start : start + chunk_tokens], use_reentrant=False)
        for start in range(0, max(1, len(tokens)), chunk_tokens)
    ]
    return TokenScores(torch.cat([part.logprobs for part in parts]), torch.cat([part.entropy for part in parts]))
