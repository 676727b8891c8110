"""GoldenMem: token counts of the paper, properties of plans, and the baselines as plans of the same type."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captain_cinema.numerics.memory import GOLDEN_RATIO, MemoryPlan, compress, golden_sides, grid_of, no_memory, plan_memory, uniform_memory
from triptych.errors import UserError

PAPER = {"sides": golden_sides(25), "aspect": 2.0, "text_tokens": 128}


@pytest.mark.parametrize(
    ("pairs", "naive", "golden"),
    [(4, 5512, 5512), (8, 11024, 7824), (12, 16536, 8984), (16, 22048, 9696), (20, 27560, 10280), (24, 33072, 10824)],
)
def test_the_papers_token_counts(pairs: int, naive: int, golden: int) -> None:
    assert uniform_memory(pairs, side=25, aspect=2.0, text_tokens=128).tokens == naive
    assert plan_memory(pairs, frames_per_level=4, **PAPER).tokens == golden


@pytest.mark.parametrize(
    ("short_side", "sides"),
    [
        (8, (8, 4, 3, 1, 1)),
        (12, (12, 7, 4, 2, 1, 1)),
        (16, (16, 9, 6, 3, 2, 1)),
        (25, (25, 15, 9, 5, 3, 2, 1)),
        (32, (32, 19, 12, 7, 4, 2, 1, 1)),
    ],
)
def test_sides_follow_the_closed_form(short_side: int, sides: tuple[int, ...]) -> None:
    assert golden_sides(short_side, min_side=1) == sides
    assert golden_sides(short_side) == tuple(side for side in sides if side >= 2)
    assert golden_sides(short_side, num_levels=2) == sides[:2]


@given(st.integers(2, 200), st.floats(0.5, 3.0))
def test_one_frame_a_level_costs_at_most_phi_frames(short_side: int, aspect: float) -> None:
    rows, columns = grid_of(short_side, aspect)
    plan = plan_memory(50, sides=golden_sides(short_side), aspect=aspect)
    # Sides are floored, so areas shrink by phi squared or more; a long side may be rounded up by half a token.
    rounding = sum(side / 2 for side in golden_sides(short_side))
    assert plan.tokens <= rows * columns * GOLDEN_RATIO**2 / (GOLDEN_RATIO**2 - 1) + rounding + short_side


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 30), st.integers(0, 3000))
def test_a_plan_keeps_to_its_budget(num_frames: int, per_level: int, text_tokens: int, budget: int) -> None:
    sides = golden_sides(16)
    if 0 < budget < 16 * 16 + text_tokens:
        with pytest.raises(UserError, match="one full frame has"):
            plan_memory(num_frames, sides=sides, frames_per_level=per_level, text_tokens=text_tokens, budget_tokens=budget)
        return
    plan = plan_memory(num_frames, sides=sides, frames_per_level=per_level, text_tokens=text_tokens, budget_tokens=budget)
    assert plan.tokens <= budget
    assert len(plan.grids) + plan.num_dropped == num_frames
    assert list(plan.grids) == sorted(plan.grids, reverse=True)
    if budget and num_frames:
        assert plan.grids[0] == (16, 16)
    free = plan_memory(num_frames, sides=sides, frames_per_level=per_level, text_tokens=text_tokens)
    assert (plan.note == "") == (plan == free) or (budget == 0 and num_frames == 0)


def test_limits_of_the_plan() -> None:
    whole = plan_memory(9, sides=(8,), frames_per_level=None, text_tokens=4)
    assert whole == uniform_memory(9, side=8, text_tokens=4)
    assert whole.tokens == 9 * (64 + 4)
    assert plan_memory(9, sides=(8,), budget_tokens=0).grids == no_memory(9).grids == ()
    newest = uniform_memory(9, side=8, count=2)
    assert (newest.tokens, newest.num_dropped) == (128, 7)
    assert uniform_memory(1, side=8, count=2).num_dropped == 0
    # Four frames a level on levels of sides 8, 4, 3: the thirteenth frame has no level.
    assert plan_memory(13, sides=(8, 4, 3), frames_per_level=4).num_dropped == 1


def test_a_budget_first_lowers_the_frames_of_a_level_then_drops() -> None:
    sides = (8, 4, 3)
    # Three a level: 3 x 64 + 2 x 16 = 224; two: 2 x 64 + 2 x 16 + 9 = 169; one: 64 + 16 + 9 = 89; then 64 + 16 and 64.
    for budget, tokens, words in (
        (224, 224, ""),
        (223, 169, "2 instead of 3"),
        (168, 89, "1 instead of 3"),
        (88, 80, "3 of 5"),
        (64, 64, "4 of 5"),
    ):
        plan = plan_memory(5, sides=sides, frames_per_level=3, budget_tokens=budget)
        assert plan.tokens == tokens
        assert words in plan.note


def test_compression_averages_areas_in_rank_order() -> None:
    frames = torch.arange(5.0)[:, None, None, None] + torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = plan_memory(5, sides=(4, 2), frames_per_level=2)
    full, half = compress(frames, plan, patch=4)
    assert torch.equal(full, frames[:2])
    torch.testing.assert_close(half, frames[2:4].unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean((-1, -3)))
    assert compress(frames, no_memory(5), patch=4) == []
    with pytest.raises(UserError, match="plan is for 5 frames but there are 4"):
        compress(frames[:4], plan, patch=4)


def test_groups_are_runs_of_one_grid() -> None:
    assert MemoryPlan(((4, 4), (4, 4), (2, 2))).groups == (((4, 4), 2), ((2, 2), 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": -1, "sides": (8,)}, "must be 0 or more"),
        ({"num_frames": 1, "sides": ()}, "give sides"),
        ({"num_frames": 1, "sides": (8,), "aspect": 0.0}, "aspect above 0"),
        ({"num_frames": 1, "sides": (8,), "frames_per_level": 0}, "frames_per_level is 0"),
    ],
)
def test_invalid_plans_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_memory(**arguments)
    with pytest.raises(UserError, match="no level"):
        golden_sides(1)
    with pytest.raises(UserError, match="num_levels is 0"):
        golden_sides(8, num_levels=0)
