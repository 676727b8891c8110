"""Hybrid attention: which tokens of a packed sequence of (caption, frame) pairs see which.

Double-stream blocks are local to a pair; single-stream blocks join all pairs, each pair with itself and its past, or a
memory with several targets that must not see one another. True means "may look at".

Source: Captain Cinema (arXiv 2507.18634), section 3.2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from triptych.errors import UserError


def pair_of_tokens(tokens_per_pair: Sequence[int]) -> Int[Tensor, " tokens"]:
    """The pair that each token of a packed sequence belongs to.

    Example:
        >>> pair_of_tokens([2, 1])
        tensor([0, 0, 1])
    """
    return torch.arange(len(tokens_per_pair)).repeat_interleave(torch.tensor(tokens_per_pair, dtype=torch.long))


def local_mask(pairs: Int[Tensor, " tokens"]) -> Bool[Tensor, "tokens tokens"]:
    """Tokens see their own pair: block-diagonal."""
    return pairs[:, None] == pairs[None, :]


def causal_mask(pairs: Int[Tensor, " tokens"]) -> Bool[Tensor, "tokens tokens"]:
    """Tokens see their own pair and earlier ones."""
    return pairs[:, None] >= pairs[None, :]


def shared_memory_mask(pairs: Int[Tensor, " tokens"], num_memory: int) -> Bool[Tensor, "tokens tokens"]:
    """Several alternative next shots over one memory: everybody sees the memory, a target itself besides.

    The memory does not see the targets, or one would leak into another through it.

    Args:
        pairs: pair of each token; the first `num_memory` pairs are the memory.
        num_memory: pairs of the memory.

    Raises:
        UserError: if `num_memory` is negative.
    """
    if num_memory < 0:
        raise UserError(f"num_memory is {num_memory}: it must be 0 or more")
    return (pairs[None, :] < num_memory) | local_mask(pairs)
