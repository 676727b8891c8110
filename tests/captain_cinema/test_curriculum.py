"""The curriculum: stages, the mixture of memories, and sequences at dynamic strides."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captain_cinema.curriculum import Stage, draw_policy, stage_at, strided_sequences
from triptych.errors import UserError


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stages_follow_one_another_and_the_last_goes_on() -> None:
    stages = [Stage(1, 10), Stage(8, 5), Stage(16, 5)]
    found = [stage_at(step, stages) for step in (0, 9, 10, 14, 15, 19, 25)]
    assert found == [(0, 0), (0, 9), (1, 0), (1, 4), (2, 0), (2, 4), (2, 10)]
    with pytest.raises(UserError, match="no stage"):
        stage_at(0, [])
    with pytest.raises(UserError, match="must be above 0"):
        Stage(0, 10)


def test_policies_are_drawn_in_proportion() -> None:
    generator = stream(0)
    drawn = [draw_policy({"none": 1.0, "golden": 3.0, "never": 0.0}, generator=generator) for _ in range(4000)]
    assert drawn.count("never") == 0
    assert drawn.count("golden") / 4000 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)
    with pytest.raises(UserError, match="shares"):
        draw_policy({"none": 0.0}, generator=generator)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.5]), st.integers(0, 100))
def test_sequences_keep_order_and_overlap_little(num_keyframes: int, num_pairs: int, max_stride: int, overlap: float, seed: int) -> None:
    found = strided_sequences(num_keyframes, num_pairs, max_stride=max_stride, max_overlap=overlap, generator=stream(seed))
    assert found == strided_sequences(num_keyframes, num_pairs, max_stride=max_stride, max_overlap=overlap, generator=stream(seed))
    assert bool(found) == (num_keyframes >= num_pairs)
    for index, sequence in enumerate(found):
        strides = {later - earlier for earlier, later in pairwise(sequence)}
        assert len(sequence) == num_pairs
        assert sequence[0] >= 0
        assert sequence[-1] < num_keyframes
        assert len(strides) <= 1
        assert all(1 <= stride <= max_stride for stride in strides)
        for other in found[:index]:
            assert len(set(sequence) & set(other)) <= overlap * num_pairs


def test_epochs_see_other_sequences() -> None:
    first, second = (strided_sequences(64, 16, max_stride=4, max_overlap=0.25, generator=stream(seed)) for seed in (0, 1))
    assert set(first) != set(second)
    assert len({*first, *second}) > len(range(0, 64, 16))  # more than the consecutive windows that do not overlap


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="overlaps up to 2"):
        strided_sequences(8, 2, max_stride=1, max_overlap=2.0, generator=stream(0))
