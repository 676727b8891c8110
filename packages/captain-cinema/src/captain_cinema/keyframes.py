"""Drawing keyframes: shot by shot over a memory of the past, or all shots together.

Source: Captain Cinema (arXiv 2507.18634), sections 3.2 and 3.3.
"""

import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.conditioning import MemoryPolicy, memory_groups
from captain_cinema.flow import euler_step, sampling_timesteps
from captain_cinema.memory import Grid
from captain_cinema.models import FrameGroup, KeyframeModel
from captain_cinema.storyboard import Storyboard
from triptych.errors import UserError
from triptych.seeding import derive_seed

MODES = ("extend", "causal", "joint")


@dataclass
class DrawingConfig:
    """How keyframes are drawn.

    Attributes:
        mode: `extend`, shot by shot over a memory that sees itself alone; `causal`, shot by shot, each frame seeing all
            before it; `joint`, all shots from noise together.
        num_steps: Euler steps.
        shift: of the timesteps towards noise; 1 for none.
        context_noise: noise level that remembered frames are given.

    Raises:
        UserError: if a value is unknown or out of range.
    """

    mode: str = "extend"
    num_steps: int = 8
    shift: float = 1.0
    context_noise: float = 0.1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"drawing.mode is '{self.mode}': choose one of {', '.join(MODES)}")
        if self.num_steps < 1:
            raise UserError(f"drawing.num_steps is {self.num_steps}: it must be 1 or more")
        if not self.shift > 0:
            raise UserError(f"drawing.shift is {self.shift}: it must be above 0")
        if not 0 <= self.context_noise <= 1:
            raise UserError(f"drawing.context_noise is {self.context_noise}: it must lie between 0 and 1")


@dataclass(frozen=True)
class Reference:
    """A frame from outside the film that shots may remember.

    Attributes:
        frame: (channels, height, width) in [-1, 1].
        caption: what it shows.
        tags: names and places that it shows.
    """

    frame: Float[Tensor, "channels height width"]
    caption: str
    tags: Collection[str]


@dataclass(frozen=True)
class Remembered:
    """One frame of a shot's memory.

    Attributes:
        source: index of the shot, or minus 1, minus 2, ... for the first, second, ... reference.
        grid: rows and columns of tokens that were kept of it.
    """

    source: int
    grid: Grid


@dataclass(frozen=True)
class Keyframe:
    """One drawn shot.

    Attributes:
        frame: (channels, height, width) in [-1, 1].
        remembered: what it looked at, most important first.
        tokens: of memory and shot together, image and text.
        seconds: wall time; shots drawn together share it evenly.
        note: what the memory's budget changed; empty for nothing.
    """

    frame: Float[Tensor, "channels height width"]
    remembered: tuple[Remembered, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass
class _Past:
    frames: list[Tensor] = field(default_factory=list)
    captions: list[Tensor] = field(default_factory=list)
    tags: list[Collection[str]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

    def add(self, frame: Tensor, caption: Tensor, tags: Collection[str], source: int) -> None:
        self.frames.append(frame)
        self.captions.append(caption)
        self.tags.append(tags)
        self.sources.append(source)


class KeyframeSampler:
    """Draws the keyframes of storyboards.

    Args:
        model: the keyframe model.
        memory: which past frames a shot looks at.
        drawing: steps and mode.
        image_size: (height, width) of a keyframe in pixels.

    Attributes:
        drawing: steps and mode.
        patch: pixels per side of a token.
    """

    def __init__(
        self, model: KeyframeModel, memory: MemoryPolicy, drawing: DrawingConfig, *, image_size: tuple[int, int] = (64, 64)
    ) -> None:
        self._model = model
        self._memory = memory
        self.drawing = drawing
        self.patch = model.patch
        self._size = image_size
        self._grid = image_size[0] // model.patch, image_size[1] // model.patch

    def draw(
        self,
        storyboard: Storyboard,
        *,
        fixed: Mapping[int, Float[Tensor, "channels height width"]] | None = None,
        references: Sequence[Reference] = (),
    ) -> list[Keyframe]:
        """Draws one storyboard.

        Args:
            storyboard: what to draw.
            fixed: frames by 0-based shot that are kept as they are, so that single shots can be redrawn; the shots after
                a redrawn one are part of its memory too.
            references: frames that all shots may remember.

        Raises:
            UserError: if a fixed frame or reference has another size than the film.
        """
        kept = {index: frame[None] for index, frame in (fixed or {}).items()}
        return self.draw_many([storyboard], fixed=kept, references=references)[0]

    @torch.no_grad()
    def draw_many(
        self,
        storyboards: Sequence[Storyboard],
        *,
        fixed: Mapping[int, Float[Tensor, "storyboards channels height width"]] | None = None,
        references: Sequence[Reference] = (),
    ) -> list[list[Keyframe]]:
        """Draws storyboards of equally many shots side by side; each comes out as it would alone.

        Args:
            storyboards: what to draw.
            fixed: frames by 0-based shot that are kept as they are, one per storyboard.
            references: frames that all shots may remember.

        Raises:
            UserError: if the storyboards differ in length, or a fixed frame or reference has another size.
        """
        count = len(storyboards[0].shots)
        if any(len(board.shots) != count for board in storyboards):
            raise UserError("storyboards that are drawn side by side must have equally many shots")
        kept = dict(fixed or {})
        for frame in (*kept.values(), *(reference.frame for reference in references)):
            if tuple(frame.shape[-2:]) != self._size:
                raise UserError(
                    f"a frame of {frame.shape[-2]} x {frame.shape[-1]} pixels: the film's frames are {self._size[0]} x {self._size[1]}"
                )
        captions = [self._model.encode_captions(board.captions()) for board in storyboards]
        kept = {index: frames.to(captions[0].device) for index, frames in kept.items()}
        if self.drawing.mode == "joint":
            return self._draw_together(storyboards, captions, kept)
        # Under causal attention the past carries its captions as they were drawn; a memory is named alone, as in training,
        # so that who returns is known by sight.
        named = captions
        if self.drawing.mode == "extend":
            named = [self._model.encode_captions([shot.caption for shot in board.shots]) for board in storyboards]
        pasts = [self._referenced(references) for _ in storyboards]
        found: list[list[Keyframe]] = [[] for _ in storyboards]
        for index in range(count):
            if index in kept:
                drawn = [Keyframe(frame) for frame in kept[index]]
            else:
                later = {place: frames for place, frames in sorted(kept.items()) if place > index}
                views = [
                    _with_later(past, {place: frames[row] for place, frames in later.items()}, storyboards[row], named[row])
                    for row, past in enumerate(pasts)
                ]
                drawn = self._draw_shot(storyboards, captions, views, index)
            for row, keyframe in enumerate(drawn):
                found[row].append(keyframe)
                pasts[row].add(keyframe.frame, named[row][index], storyboards[row].shots[index].tags, index)
        return found

    def _draw_shot(self, boards: Sequence[Storyboard], captions: Sequence[Tensor], pasts: Sequence[_Past], index: int) -> list[Keyframe]:
        started = time.perf_counter()
        num_past = len(pasts[0].frames)
        plan = self._memory.plan(
            num_past, short_side=min(self._grid), aspect=self._grid[1] / self._grid[0], text_tokens=self._model.text_tokens
        )
        ranks = [self._memory.ranks(past.tags, board.shots[index].tags) for past, board in zip(pasts, boards, strict=True)]
        seeds = [_seed(board, index) for board in boards]
        memory = []
        if plan.grids:
            memory = memory_groups(
                torch.stack([torch.stack(past.frames) for past in pasts]),
                torch.stack([torch.stack(past.captions) for past in pasts]),
                ranks,
                plan,
                patch=self._model.patch,
                timesteps=torch.full((len(boards), num_past), self.drawing.context_noise),
                generators=[torch.Generator().manual_seed(derive_seed(seed, "context")) for seed in seeds],
            )
        noisy = torch.stack([self._noise(seed) for seed in seeds])[:, None].to(captions[0].device)
        said = torch.stack([own[index] for own in captions])[:, None]
        attention = self.drawing.mode
        if attention == "causal":
            memory = [_oldest_first(group) for group in reversed(memory)]
        frames = self._denoise(noisy, said, memory, attention)[:, 0]
        seconds = (time.perf_counter() - started) / len(boards)
        own_tokens = self._grid[0] * self._grid[1] + self._model.text_tokens
        return [
            Keyframe(
                frame,
                tuple(Remembered(past.sources[rank], grid) for rank, grid in zip(order, plan.grids, strict=False)),
                plan.tokens + own_tokens,
                seconds,
                plan.note,
            )
            for frame, past, order in zip(frames, pasts, ranks, strict=True)
        ]

    def _draw_together(self, boards: Sequence[Storyboard], captions: Sequence[Tensor], kept: Mapping[int, Tensor]) -> list[list[Keyframe]]:
        started = time.perf_counter()
        count = len(boards[0].shots)
        noisy = torch.stack([torch.stack([self._noise(_seed(board, index)) for index in range(count)]) for board in boards])
        noisy = noisy.to(captions[0].device)
        frames = self._denoise(noisy, torch.stack(list(captions)), [], "joint", kept=kept)
        seconds = (time.perf_counter() - started) / (len(boards) * count)
        tokens = count * (self._grid[0] * self._grid[1] + self._model.text_tokens)
        return [[Keyframe(frame, (), tokens, seconds) for frame in row] for row in frames]

    def _denoise(
        self, noisy: Tensor, said: Tensor, memory: Sequence[FrameGroup], attention: str, *, kept: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        batch, count = noisy.shape[:2]
        known = self._model.remember(memory) if memory and attention == "extend" else None
        shown = [] if known is not None else list(memory)
        times = sampling_timesteps(self.drawing.num_steps, shift=self.drawing.shift).tolist()
        slots = torch.arange(count - 1, -1, -1, device=noisy.device).float().expand(batch, -1)  # the newest stands at 0
        own = torch.ones(batch, count, device=noisy.device)
        for index, frame in (kept or {}).items():
            own[:, index] = 0.0
            noisy[:, index] = frame
        for begin, end in itertools.pairwise(times):
            target = FrameGroup(noisy, said, own * begin, slots)
            velocity = self._model.velocity([*shown, target], attention=attention, memory=known)[-1]
            moved = euler_step(noisy.flatten(0, 1), velocity.flatten(0, 1), (own * begin).flatten(), (own * end).flatten())
            noisy = moved.view_as(noisy)
        return noisy.clamp(-1, 1)

    def _noise(self, seed: int) -> Tensor:
        return torch.randn(3, *self._size, generator=torch.Generator().manual_seed(derive_seed(seed, "keyframe")))

    def _referenced(self, references: Sequence[Reference]) -> _Past:
        past = _Past()
        for number, reference in enumerate(references, start=1):
            said = self._model.encode_captions([reference.caption])[0]
            past.add(reference.frame.to(said.device), said, reference.tags, -number)
        return past


def _oldest_first(group: FrameGroup) -> FrameGroup:
    """Ranks turned round: under causal attention the most important frame comes last and sees all others."""
    flipped = (group.latents.flip(1), group.captions.flip(1), group.timesteps.flip(1), group.slots.flip(1))
    return FrameGroup(*flipped, is_memory=group.is_memory)


def _with_later(past: _Past, later: Mapping[int, Tensor], board: Storyboard, captions: Tensor) -> _Past:
    """The past with the fixed frames of later shots in front, as if they were the oldest."""
    if not later:
        return past
    whole = _Past()
    for place, frame in later.items():
        whole.add(frame, captions[place], board.shots[place].tags, place)
    for values in zip(past.frames, past.captions, past.tags, past.sources, strict=True):
        whole.add(*values)
    return whole


def _seed(board: Storyboard, index: int) -> int:
    own = board.shots[index].seed
    return derive_seed(board.seed, "shot", index) if own is None else own
