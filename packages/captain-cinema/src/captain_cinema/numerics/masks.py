"""Masks of hybrid attention over a packed sequence of (caption, frame) pairs.

Double-stream blocks are local to a pair. Single-stream blocks attend across pairs: to all, causally, or to a shared memory with
several targets that must not attend to one another. Rows are queries, columns keys; true means that the query attends to the key.

Source: Captain Cinema (arXiv 2507.18634), section 3.2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from triptych.errors import UserError


def pair_of_tokens(tokens_per_pair: Sequence[int]) -> Int[Tensor, " tokens"]:
    """The pair index of each token of a packed sequence.

    Example:
        >>> pair_of_tokens([2, 1])
        tensor([0, 0, 1])
    """
    return torch.arange(len(tokens_per_pair)).repeat_interleave(torch.tensor(tokens_per_pair, dtype=torch.long))


def local_mask(pairs: Int[Tensor, " tokens"]) -> Bool[Tensor, "tokens tokens"]:
    """Tokens attend to their own pair: block-diagonal."""
    return pairs[:, None] == pairs[None, :]


def causal_mask(pairs: Int[Tensor, " tokens"]) -> Bool[Tensor, "tokens tokens"]:
    """Tokens attend to their own and earlier pairs."""
    return pairs[:, None] >= pairs[None, :]


def shared_memory_mask(pairs: Int[Tensor, " tokens"], num_memory: int) -> Bool[Tensor, "tokens tokens"]:
    """Alternative next shots over one memory: all tokens attend to the memory, target tokens also to their own pair.

    The memory does not attend to the targets; otherwise one target would leak into another through it.

    Args:
        pairs: pair index of each token; the first `num_memory` pairs are the memory.
        num_memory: number of pairs in the memory.

    Raises:
        UserError: if `num_memory` is negative.
    """
    if num_memory < 0:
        raise UserError(f"num_memory is {num_memory}: it must be 0 or more")
    return (pairs[None, :] < num_memory) | local_mask(pairs)
