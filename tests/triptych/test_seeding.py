"""Named random streams."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.seeding import GlobalRandomState, derive_seed, generator
from triptych.training.order import ShuffledOrder


def test_derived_seeds_are_the_same_for_ever() -> None:
    # A change here would silently break the exact resume of every run made before it.
    assert (
        derive_seed(0, "rollout", 1, 2, 3)
        == int.from_bytes(__import__("hashlib").sha256(b"(0, 'rollout', 1, 2, 3)").digest()[:8], "big") >> 1
    )
    assert 0 <= derive_seed(-5, "x") < 2**63


@given(st.lists(st.tuples(st.integers(), st.text(max_size=5), st.integers()), min_size=2, max_size=30, unique=True))
def test_other_names_give_other_seeds(names: list[tuple[int, str, int]]) -> None:
    assert len({derive_seed(seed, name, index) for seed, name, index in names}) == len(names)


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    draws = torch.stack([torch.randn(2000, generator=generator(0, "x", index)) for index in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert correlation.abs().max() < 5 / 2000**0.5


def test_the_global_random_state_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    state = GlobalRandomState(rank=3)
    before = torch.get_rng_state()
    try:
        state.save(tmp_path)
        expected = torch.rand(5)
        torch.rand(100)
        GlobalRandomState(rank=3).load(tmp_path)
        assert torch.equal(torch.rand(5), expected)
        GlobalRandomState(rank=4).load(tmp_path)  # a rank that the saved run did not have
    finally:
        torch.set_rng_state(before)


@given(num=st.integers(1, 20), start=st.integers(0, 50), first=st.integers(0, 30), second=st.integers(0, 30))
def test_an_order_goes_on_from_any_position_and_visits_each_example_once_an_epoch(num: int, start: int, first: int, second: int) -> None:
    order = ShuffledOrder(num, seed=1)
    whole = order.take(start, first + second)
    assert ShuffledOrder(num, seed=1).take(start + first, second) == whole[first:]
    for epoch in range(3):
        assert sorted(order.take(epoch * num, num)) == list(range(num))


def test_epochs_and_seeds_have_other_orders() -> None:
    order = ShuffledOrder(100, seed=0)
    assert order.take(0, 100) != order.take(100, 100)
    assert order.take(0, 100) != ShuffledOrder(100, seed=1).take(0, 100)
