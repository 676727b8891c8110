"""GoldenMem: past frames at sizes that shrink by the golden ratio, planned to fit a token budget.

A plan holds the token grid of every past frame in order of importance (rank 0 first). The baselines are plans of the same type.

Source: Captain Cinema (arXiv 2507.18634), section 3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from triptych.errors import UserError

GOLDEN_RATIO = (1 + 5**0.5) / 2

Grid = tuple[int, int]


@dataclass(frozen=True)
class MemoryPlan:
    """Token grids of the past frames.

    Attributes:
        grids: (rows, columns) of tokens of rank 0, 1, ...; frames of later ranks are dropped.
        text_tokens: tokens of the caption of each kept frame.
        num_dropped: number of dropped frames.
        frames_per_level: frames at each level; 0 for an empty plan.
        note: changes made to meet the budget; empty if there are none.
    """

    grids: tuple[Grid, ...] = ()
    text_tokens: int = 0
    num_dropped: int = 0
    frames_per_level: int = 0
    note: str = ""

    @property
    def tokens(self) -> int:
        """Image and text tokens of the whole memory."""
        return sum(rows * columns + self.text_tokens for rows, columns in self.grids)

    @property
    def groups(self) -> tuple[tuple[Grid, int], ...]:
        """(grid, number of frames) of every run of ranks of equal grid, in order."""
        found: list[tuple[Grid, int]] = []
        for grid in self.grids:
            if found and found[-1][0] == grid:
                found[-1] = (grid, found[-1][1] + 1)
            else:
                found.append((grid, 1))
        return tuple(found)


def golden_sides(short_side: int, *, num_levels: int | None = None, min_side: int = 2) -> tuple[int, ...]:
    """Short sides of the levels in tokens, `floor(short_side / phi^i)`, down to `min_side`.

    This closed form reproduces the token counts of the paper; flooring the previous level does not.

    Args:
        short_side: short side of a full-resolution frame, in tokens.
        num_levels: maximum number of levels; None for all.
        min_side: smallest side of a level, in tokens.

    Raises:
        UserError: if `short_side` or `num_levels` is below 1, or `min_side` is not between 1 and `short_side`.

    Example:
        >>> golden_sides(25)
        (25, 15, 9, 5, 3, 2)
    """
    if short_side < 1 or not 1 <= min_side <= short_side:
        raise UserError(
            f"min_side is {min_side} with frames of side {short_side}, which leaves no level: give a min_side of 1 to the side of a frame"
        )
    if num_levels is not None and num_levels < 1:
        raise UserError(f"num_levels is {num_levels}: it must be 1 or more")
    sides: list[int] = []
    while num_levels is None or len(sides) < num_levels:
        side = math.floor(short_side / GOLDEN_RATIO ** len(sides))
        if side < min_side:
            break
        sides.append(side)
    return tuple(sides)


def plan_memory(
    num_frames: int,
    *,
    sides: Sequence[int],
    aspect: float = 1.0,
    frames_per_level: int | None = 1,
    text_tokens: int = 0,
    budget_tokens: int | None = None,
) -> MemoryPlan:
    """The plan that fills the levels in rank order within the budget.

    Frames beyond the last level are dropped. If the tokens exceed the budget, `frames_per_level` is lowered first,
    which moves frames to coarser levels, then the last ranks are dropped; `MemoryPlan.note` reports the change.

    Args:
        num_frames: number of past frames.
        sides: short sides of the levels in tokens, from `golden_sides`; a single side gives a uniform memory.
        aspect: width of a frame divided by its height.
        frames_per_level: frames at each level; None for all frames at the first level.
        text_tokens: tokens of a caption.
        budget_tokens: maximum number of image and text tokens; None for no limit, 0 for no memory.

    Raises:
        UserError: if a number is out of range, or the budget is above 0 and below the tokens of one frame.

    Example:
        >>> plan_memory(24, sides=golden_sides(25), aspect=2.0, frames_per_level=4, text_tokens=128).tokens
        10824
    """
    if num_frames < 0 or text_tokens < 0:
        raise UserError(f"num_frames is {num_frames} and text_tokens {text_tokens}: both must be 0 or more")
    if not sides or min(sides) < 1 or not aspect > 0:
        raise UserError(f"sides is {list(sides)} and aspect {aspect}: give sides of 1 or more and an aspect above 0")
    if frames_per_level is not None and frames_per_level < 1:
        raise UserError(f"frames_per_level is {frames_per_level}: it must be 1 or more")
    levels = [grid_of(side, aspect) for side in sides]
    if budget_tokens == 0:
        return MemoryPlan(
            text_tokens=text_tokens, num_dropped=num_frames, note="" if num_frames == 0 else "all frames dropped by a budget of 0 tokens"
        )
    smallest = levels[0][0] * levels[0][1] + text_tokens
    if budget_tokens is not None and budget_tokens < smallest:
        raise UserError(f"budget_tokens is {budget_tokens} but one full frame has {smallest} tokens: raise it, or set 0 for no memory")
    wanted = max(1, num_frames) if frames_per_level is None else frames_per_level
    for per_level in range(wanted, 0, -1):
        plan = _fill(num_frames, levels, per_level, text_tokens)
        if budget_tokens is None or plan.tokens <= budget_tokens:
            lowered = f"{per_level} instead of {wanted} frames per level for a budget of {budget_tokens} tokens"
            return plan if per_level == wanted else replace(plan, note=lowered)
    # One frame per level is still too much: drop ranks from the end.
    assert budget_tokens is not None
    grids = plan.grids
    while MemoryPlan(grids, text_tokens).tokens > budget_tokens:
        grids = grids[:-1]
    note = f"1 frame per level and {num_frames - len(grids)} of {num_frames} frames dropped for a budget of {budget_tokens} tokens"
    return replace(plan, grids=grids, num_dropped=num_frames - len(grids), note=note)


def no_memory(num_frames: int) -> MemoryPlan:
    """The plan that drops all frames."""
    return MemoryPlan(num_dropped=num_frames)


def uniform_memory(num_frames: int, *, side: int, count: int | None = None, aspect: float = 1.0, text_tokens: int = 0) -> MemoryPlan:
    """The plan that keeps the first `count` ranks (None for all) at one side: the token-matched baseline of GoldenMem.

    With the side of a full frame it is the full memory or, with `count`, the newest or best-ranked full frames.
    """
    kept = num_frames if count is None else min(count, num_frames)
    plan = plan_memory(kept, sides=(side,), aspect=aspect, frames_per_level=None, text_tokens=text_tokens)
    return replace(plan, num_dropped=num_frames - kept)


def compress(frames: Float[Tensor, "frames channels height width"], plan: MemoryPlan, *, patch: int) -> list[Float[Tensor, "..."]]:
    """The kept frames, resized to their grids, one tensor per run of ranks of equal grid.

    Resizing averages pixel areas; a frame at its own size is returned unchanged.

    Args:
        frames: past frames in rank order, at full resolution.
        plan: a plan for that number of frames.
        patch: side of a token, in pixels.

    Returns:
        Tensors (frames, channels, rows * patch, columns * patch).

    Raises:
        UserError: if the plan is for another number of frames.
    """
    if len(frames) != len(plan.grids) + plan.num_dropped:
        raise UserError(
            f"the memory plan is for {len(plan.grids) + plan.num_dropped} frames but there are {len(frames)}: plan for {len(frames)} frames"
        )
    groups, begin = [], 0
    for (rows, columns), count in plan.groups:
        size = (rows * patch, columns * patch)
        part = frames[begin : begin + count]
        groups.append(part if part.shape[-2:] == torch.Size(size) else functional.interpolate(part, size, mode="area"))
        begin += count
    return groups


def grid_of(side: int, aspect: float = 1.0) -> Grid:
    """(rows, columns) of tokens of a frame whose short side has `side` tokens."""
    return (side, max(1, round(side * aspect))) if aspect >= 1 else (max(1, round(side / aspect)), side)


def _fill(num_frames: int, levels: Sequence[Grid], per_level: int, text_tokens: int) -> MemoryPlan:
    grids = tuple(levels[rank // per_level] for rank in range(min(num_frames, per_level * len(levels))))
    return MemoryPlan(grids, text_tokens, num_frames - len(grids), per_level)
