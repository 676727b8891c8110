"""Drawing keyframes: shot by shot over a memory of the past, or all shots together.

Source: Captain Cinema (arXiv 2507.18634), sections 3.2 and 3.3.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.conditioning import MemoryPolicy, position_ids_by_rank, remembered_frames
from captain_cinema.data.storyboard import Storyboard
from captain_cinema.models import CaptionEmbeddings, Frames, KeyframeModel
from captain_cinema.numerics.flow import euler_sample
from captain_cinema.numerics.memory import Grid
from triptych.errors import UserError
from triptych.seeding import derive_seed

MODES = ("extend", "causal", "joint")


@dataclass
class SamplingConfig:
    """How keyframes are drawn.

    Attributes:
        mode: `extend`, shot by shot over a memory that sees itself alone; `causal`, shot by shot, each frame seeing all
            before it; `joint`, all shots from noise together.
        num_steps: Euler steps.
        context_noise: noise level that remembered frames are given.

    Raises:
        UserError: if a value is unknown or out of range.
    """

    mode: str = "extend"
    num_steps: int = 8
    context_noise: float = 0.1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"sampling.mode is '{self.mode}': choose one of {', '.join(MODES)}")
        if self.num_steps < 1:
            raise UserError(f"sampling.num_steps is {self.num_steps}: it must be 1 or more")
        if not 0 <= self.context_noise <= 1:
            raise UserError(f"sampling.context_noise is {self.context_noise}: it must lie between 0 and 1")


@dataclass(frozen=True)
class Reference:
    """A frame from outside the film that shots may remember.

    Attributes:
        frame: (3, height, width) in [-1, 1].
        caption: what it shows.
        tags: names and places that it shows.
    """

    frame: Float[Tensor, "3 height width"]
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
        frame: (3, height, width) in [-1, 1].
        remembered: what it looked at, most important first.
        tokens: of memory and shot together, image and text.
        seconds: wall time; shots drawn together share it evenly.
        note: what the memory's budget changed; empty for nothing.
    """

    frame: Float[Tensor, "3 height width"]
    remembered: tuple[Remembered, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass
class _Past:
    frames: list[Tensor] = field(default_factory=list)
    captions: list[CaptionEmbeddings] = field(default_factory=list)
    tags: list[Collection[str]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

    def add(self, frame: Tensor, caption: CaptionEmbeddings, tags: Collection[str], source: int) -> None:
        self.frames.append(frame)
        self.captions.append(caption)
        self.tags.append(tags)
        self.sources.append(source)


class KeyframeSampler:
    """Samples the keyframes of storyboards.

    Args:
        model: the keyframe model.
        memory: which past frames a shot looks at.
        sampling: steps and mode.
        image_size: (height, width) of a keyframe in pixels.

    Attributes:
        sampling: steps and mode.
        pixels_per_token: pixels per side of a token.
    """

    def __init__(self, model: KeyframeModel, memory: MemoryPolicy, sampling: SamplingConfig, *, image_size: tuple[int, int]) -> None:
        self._model = model
        self._memory = memory
        self.sampling = sampling
        self.pixels_per_token = model.space.pixels_per_token
        self._size = image_size
        self._grid = image_size[0] // self.pixels_per_token, image_size[1] // self.pixels_per_token

    def sample(
        self,
        storyboard: Storyboard,
        *,
        fixed: Mapping[int, Float[Tensor, "3 height width"]] | None = None,
        references: Sequence[Reference] = (),
    ) -> list[Keyframe]:
        """Samples one storyboard.

        Args:
            storyboard: what to draw.
            fixed: frames by 0-based shot that are kept as they are, so that single shots can be redrawn; the shots after
                a redrawn one are part of its memory too.
            references: frames that all shots may remember.

        Raises:
            UserError: if a fixed frame or reference has another size than the film.
        """
        kept = {index: frame[None] for index, frame in (fixed or {}).items()}
        return self.sample_many([storyboard], fixed=kept, references=references)[0]

    @torch.no_grad()
    def sample_many(
        self,
        storyboards: Sequence[Storyboard],
        *,
        fixed: Mapping[int, Float[Tensor, "storyboards 3 height width"]] | None = None,
        references: Sequence[Reference] = (),
    ) -> list[list[Keyframe]]:
        """Samples storyboards of equally many shots side by side; each comes out as it would alone.

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
        kept = {index: frames.to(captions[0].tokens.device) for index, frames in kept.items()}
        if self.sampling.mode == "joint":
            return self._sample_jointly(storyboards, captions, kept)
        # Under causal attention the past carries its captions as they were drawn; a memory is named alone, as in training,
        # so that who returns is known by sight.
        named = captions
        if self.sampling.mode == "extend":
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
                drawn = self._sample_shot(storyboards, captions, views, index)
            for row, keyframe in enumerate(drawn):
                found[row].append(keyframe)
                pasts[row].add(keyframe.frame, named[row][index], storyboards[row].shots[index].tags, index)
        return found

    def _sample_shot(
        self, boards: Sequence[Storyboard], captions: Sequence[CaptionEmbeddings], pasts: Sequence[_Past], index: int
    ) -> list[Keyframe]:
        started = time.perf_counter()
        num_past = len(pasts[0].frames)
        plan = self._memory.plan(
            num_past, short_side=min(self._grid), aspect=self._grid[1] / self._grid[0], text_tokens=self._model.text_tokens
        )
        ranks = [self._memory.ranks(past.tags, board.shots[index].tags) for past, board in zip(pasts, boards, strict=True)]
        seeds = [_seed(board, index) for board in boards]
        memory: list[Frames] = []
        if plan.grids:
            past_frames = Frames(
                torch.stack([torch.stack(past.frames) for past in pasts]),
                CaptionEmbeddings.stack([CaptionEmbeddings.stack(past.captions) for past in pasts]),
                torch.full((len(boards), num_past), self.sampling.context_noise),
                position_ids_by_rank(len(boards), num_past),
            )
            streams = [torch.Generator().manual_seed(derive_seed(seed, "context")) for seed in seeds]
            memory = remembered_frames(past_frames, ranks, plan, self._model.space, generators=streams)
        noise = torch.stack([self._noise(seed) for seed in seeds])[:, None].to(captions[0].tokens.device)
        wanted = CaptionEmbeddings.stack([own[index : index + 1] for own in captions])
        attention = self.sampling.mode
        if attention == "causal":
            # The most important frame comes last and sees all others.
            memory = [group.flip() for group in reversed(memory)]
        frames = self._denoise(noise, wanted, memory, attention)[:, 0]
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

    def _sample_jointly(
        self, boards: Sequence[Storyboard], captions: Sequence[CaptionEmbeddings], kept: Mapping[int, Tensor]
    ) -> list[list[Keyframe]]:
        started = time.perf_counter()
        count = len(boards[0].shots)
        noise = torch.stack([torch.stack([self._noise(_seed(board, index)) for index in range(count)]) for board in boards])
        noise = noise.to(captions[0].tokens.device)
        frames = self._denoise(noise, CaptionEmbeddings.stack(list(captions)), [], "joint", kept=kept)
        seconds = (time.perf_counter() - started) / (len(boards) * count)
        tokens = count * (self._grid[0] * self._grid[1] + self._model.text_tokens)
        return [[Keyframe(frame, (), tokens, seconds) for frame in row] for row in frames]

    def _denoise(
        self,
        noise: Tensor,
        captions: CaptionEmbeddings,
        memory: Sequence[Frames],
        attention: str,
        *,
        kept: Mapping[int, Tensor] | None = None,
    ) -> Float[Tensor, "batch frames 3 height width"]:
        """Keyframes in [-1, 1] from noise (batch, frames, channels, rows, columns); `kept` ones stay as they are."""
        space, (batch, count) = self._model.space, noise.shape[:2]
        known = self._model.remember(memory) if memory and attention == "extend" else None
        shown = [] if known is not None else list(memory)
        position_ids = torch.arange(count - 1, -1, -1, device=noise.device).float().expand(batch, -1)  # the newest stands at 0
        free = torch.ones(batch, count, device=noise.device)
        for index, frames in (kept or {}).items():
            free[:, index] = 0.0
            noise[:, index] = space.encode(frames)

        def velocity(points: Tensor, times: Tensor) -> Tensor:
            target = Frames(points, captions, times, position_ids)
            return self._model.velocity([*shown, target], attention=attention, memory=known)[-1]

        times = self._model.sigmas(self.sampling.num_steps, self._grid[0] * self._grid[1]).tolist()
        latents = euler_sample(velocity, noise, times, free=free)
        return space.decode(latents.flatten(0, 1)).unflatten(0, (batch, count)).clamp(-1, 1)

    def _noise(self, seed: int) -> Tensor:
        space = self._model.space
        stream = torch.Generator().manual_seed(derive_seed(seed, "keyframe"))
        return torch.randn(space.channels, *space.size(*self._size), generator=stream)

    def _referenced(self, references: Sequence[Reference]) -> _Past:
        past = _Past()
        for number, reference in enumerate(references, start=1):
            caption = self._model.encode_captions([reference.caption])[0]
            past.add(reference.frame.to(caption.tokens.device), caption, reference.tags, -number)
        return past


def _with_later(past: _Past, later: Mapping[int, Tensor], board: Storyboard, captions: CaptionEmbeddings) -> _Past:
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
