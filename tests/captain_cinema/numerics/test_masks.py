"""Masks of hybrid attention against their definitions, pair by pair."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captain_cinema.numerics.masks import causal_mask, local_mask, pair_of_tokens, shared_memory_mask
from triptych.errors import UserError

PAIRS = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@given(PAIRS, st.integers(0, 5))
def test_masks_are_their_definitions(tokens_per_pair: list[int], num_memory: int) -> None:
    pairs = pair_of_tokens(tokens_per_pair)
    assert pairs.tolist() == [pair for pair, count in enumerate(tokens_per_pair) for _ in range(count)]
    local, causal, shared = local_mask(pairs), causal_mask(pairs), shared_memory_mask(pairs, num_memory)
    for query, own in enumerate(pairs.tolist()):
        for key, other in enumerate(pairs.tolist()):
            assert bool(local[query, key]) == (own == other)
            assert bool(causal[query, key]) == (other <= own)
            assert bool(shared[query, key]) == (other < num_memory or own == other)


@given(PAIRS)
def test_every_token_attends_to_itself_and_local_masks_are_the_smallest(tokens_per_pair: list[int]) -> None:
    pairs = pair_of_tokens(tokens_per_pair)
    local = local_mask(pairs)
    assert bool(local.diagonal().all())
    assert bool((causal_mask(pairs) | ~local).all())
    assert torch.equal(shared_memory_mask(pairs, 0), local)
    assert bool(shared_memory_mask(pairs, len(tokens_per_pair)).all())


def test_a_negative_memory_is_refused() -> None:
    with pytest.raises(UserError, match="num_memory is -1"):
        shared_memory_mask(pair_of_tokens([1]), -1)
