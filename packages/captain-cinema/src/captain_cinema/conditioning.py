"""Memory policies, and the frame groups of a memory as a keyframe model takes them; shared by training and sampling."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.models import Frames, LatentSpace, encode_frames
from captain_cinema.numerics.flow import interpolate
from captain_cinema.numerics.memory import MemoryPlan, compress, golden_sides, no_memory, plan_memory, uniform_memory
from captain_cinema.numerics.retrieval import by_tags, by_time, cover
from triptych.errors import UserError

KINDS = ("none", "uniform", "golden")
ORDERS = ("time", "tags")


@dataclass
class MemoryPolicy:
    """Selection and size of the past frames in a memory.

    Attributes:
        kind: `none`; `uniform`, all frames at one size; or `golden`, sizes that shrink by the golden ratio with the rank.
        order: `time`, newest first, or `tags`, by the tags (characters and place) shared with the next shot, then `cover`.
        side: frame side of `uniform`, in tokens; None for full-size frames.
        count: maximum number of frames; None for all.
        frames_per_level: frames at each size of `golden`.
        min_side: smallest side of `golden`, in tokens.
        budget_tokens: maximum number of image and text tokens of the memory; None for no limit.

    Raises:
        UserError: if a value is unknown or out of range.
    """

    kind: str = "golden"
    order: str = "tags"
    side: int | None = None
    count: int | None = None
    frames_per_level: int = 2
    min_side: int = 1
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("order", self.order, ORDERS)):
            if value not in known:
                raise UserError(f"memory.{name} is '{value}': choose one of {', '.join(known)}")
        for name in ("side", "count", "frames_per_level", "min_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"memory.{name} is {value}: it must be 1 or more")
        if self.budget_tokens is not None and self.budget_tokens < 0:
            raise UserError(f"memory.budget_tokens is {self.budget_tokens}: it must be 0 (no memory) or more")

    def plan(self, num_past: int, *, short_side: int, aspect: float = 1.0, text_tokens: int = 0) -> MemoryPlan:
        """The memory plan for `num_past` frames with a short side of `short_side` tokens.

        Raises:
            UserError: if `side` exceeds the short side of a frame, or the budget is below the tokens of one frame.
        """
        if self.kind == "none":
            return no_memory(num_past)
        if self.side is not None and self.side > short_side:
            raise UserError(
                f"memory.side is {self.side} but a frame has a side of {short_side} tokens: set memory.side to {short_side} or less"
            )
        kept = num_past if self.count is None else min(self.count, num_past)
        if self.kind == "uniform" and self.budget_tokens is None:
            return uniform_memory(num_past, side=self.side or short_side, count=kept, aspect=aspect, text_tokens=text_tokens)
        sides = golden_sides(short_side, min_side=self.min_side) if self.kind == "golden" else (self.side or short_side,)
        per_level = self.frames_per_level if self.kind == "golden" else max(1, kept)
        plan = plan_memory(
            kept, sides=sides, aspect=aspect, frames_per_level=per_level, text_tokens=text_tokens, budget_tokens=self.budget_tokens
        )
        return MemoryPlan(plan.grids, text_tokens, num_past - len(plan.grids), plan.frames_per_level, plan.note)

    def ranks(self, past: Sequence[Collection[str]], wanted: Sequence[str]) -> list[int]:
        """Indices into the past frames, most important first."""
        return by_time(len(past)) if self.order == "time" else cover(by_tags(past, wanted), past, wanted)


def remembered_frames(
    past: Frames,
    ranks: Sequence[Sequence[int]],
    plan: MemoryPlan,
    space: LatentSpace,
    *,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Frames]:
    """The memory frames of a batch of stories with noise added, one group per run of ranks of equal size.

    Frames are resized in pixels and encoded afterwards, so that the number of tokens matches the plan in any latent space.

    Args:
        past: frames as pixels in [-1, 1], oldest first, with their captions; its `timesteps` (0 for clean frames) and
            `position_ids` are indexed by rank, not by frame.
        ranks: indices into each story's past, most important first, from `MemoryPolicy.ranks`.
        plan: the memory plan, the same for all stories.
        space: latent space of the model.
        generators: random streams of the noise, one per story; None adds no noise.
    """
    kept = len(plan.grids)
    if kept == 0:
        return []
    pixels = past.latents
    # order is (batch, kept); indexing with rows (batch, 1) gathers (batch, kept, 3, height, width) in rank order.
    order = torch.tensor([list(own) for own in ranks], device=pixels.device)[:, :kept]
    rows = torch.arange(len(pixels), device=pixels.device)[:, None]
    chosen, captions, noise = pixels[rows, order], past.captions[rows, order], past.timesteps[:, :kept].to(pixels)
    position_ids = past.position_ids.to(pixels)
    # The plan is the same for all stories: with the ranks leading, a run of ranks is a contiguous run of rows.
    by_rank = chosen.transpose(0, 1)
    found, begin = [], 0
    for (_, count), part in zip(plan.groups, _compressed(by_rank, plan, space.pixels_per_token), strict=True):
        span = slice(begin, begin + count)
        latents, times = encode_frames(space, part.transpose(0, 1)), noise[:, span]
        times = times.to(latents)
        if generators is not None:
            sampled = torch.stack([torch.randn(latents.shape[1:], generator=own) for own in generators]).to(latents)
            latents = interpolate(latents.flatten(0, 1), sampled.flatten(0, 1), times.flatten()).view_as(latents)
        found.append(Frames(latents, captions[:, span], times, position_ids[:, span].to(latents), is_memory=True))
        begin += count
    return found


def position_ids_by_rank(num_stories: int, num_past: int) -> Float[Tensor, "batch past"]:
    """Position ids 1, 2, ... of the memory ranks, the same for every story."""
    return torch.arange(1, num_past + 1).float().expand(num_stories, -1)


def _compressed(by_rank: Tensor, plan: MemoryPlan, patch: int) -> list[Tensor]:
    """Resized frames (count, batch, channels, rows, columns), one tensor per run of ranks."""
    kept, batch = by_rank.shape[:2]
    flat = by_rank.flatten(0, 1)
    parts, begin = [], 0
    for grid, count in plan.groups:
        run = MemoryPlan((grid,) * (count * batch))
        (part,) = compress(flat[begin * batch : (begin + count) * batch], run, patch=patch)
        parts.append(part.unflatten(0, (count, batch)))
        begin += count
    assert begin == kept
    return parts
