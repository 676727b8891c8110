"""Order of training examples: one permutation per epoch, a pure function of seed and position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.distributed import World
from triptych.errors import UserError
from triptych.seeding import derive_seed
from triptych.training.order import ShuffledOrder


def test_an_epoch_is_the_permutation_of_its_named_stream() -> None:
    """A change here would break the exact resume of earlier runs."""
    for epoch in (0, 3):
        noise = torch.Generator().manual_seed(derive_seed(5, "shuffled_order", epoch))
        assert ShuffledOrder(20, seed=5).take(20 * epoch, 20) == torch.randperm(20, generator=noise).tolist()


@given(num=st.integers(1, 20), start=st.integers(0, 50), first=st.integers(0, 30), second=st.integers(0, 30))
def test_an_order_resumes_from_any_position(num: int, start: int, first: int, second: int) -> None:
    order = ShuffledOrder(num, seed=1)
    whole = order.take(start, first + second)
    assert len(whole) == first + second
    assert ShuffledOrder(num, seed=1).take(start + first, second) == whole[first:]
    assert order.take(start, first) == whole[:first], "earlier epochs can be read again"


@given(num=st.integers(1, 30), epoch=st.integers(0, 5))
def test_every_epoch_visits_each_example_once(num: int, epoch: int) -> None:
    assert sorted(ShuffledOrder(num, seed=2).take(epoch * num, num)) == list(range(num))


@given(size=st.integers(1, 5), batch=st.integers(1, 12))
def test_the_shards_of_a_batch_do_not_depend_on_the_number_of_ranks(size: int, batch: int) -> None:
    whole = ShuffledOrder(7, seed=0).take(10, batch)
    joined = []
    for rank in range(size):
        shard = World(rank=rank, size=size).shard(batch)
        joined += ShuffledOrder(7, seed=0).take(10 + shard.start, len(shard))
    assert joined == whole


def test_epochs_and_seeds_have_different_orders() -> None:
    order = ShuffledOrder(100, seed=0)
    assert order.take(0, 100) != order.take(100, 100)
    assert order.take(0, 100) != ShuffledOrder(100, seed=1).take(0, 100)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="there is no example to train on: the training split is empty"):
        ShuffledOrder(0, seed=0)
