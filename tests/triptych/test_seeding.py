"""Named random streams and the global random state."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.seeding import GlobalRandomState, derive_seed, generator


def test_derived_seeds_equal_their_definition() -> None:
    # A change here would silently break the exact resume of every earlier run.
    assert (
        derive_seed(0, "rollout", 1, 2, 3)
        == int.from_bytes(__import__("hashlib").sha256(b"(0, 'rollout', 1, 2, 3)").digest()[:8], "big") >> 1
    )
    assert 0 <= derive_seed(-5, "x") < 2**63


@given(st.lists(st.tuples(st.integers(), st.text(max_size=5), st.integers()), min_size=2, max_size=30, unique=True))
def test_different_names_give_different_seeds(names: list[tuple[int, str, int]]) -> None:
    assert len({derive_seed(seed, name, index) for seed, name, index in names}) == len(names)


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    samples = torch.stack([torch.randn(2000, generator=generator(0, "x", index)) for index in range(8)])
    correlation = torch.corrcoef(samples) - torch.eye(8)
    assert correlation.abs().max() < 5 / 2000**0.5


def test_the_global_random_state_resumes_where_it_was_saved(tmp_path: Path) -> None:
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
