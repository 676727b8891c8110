"""Sampling of keyframes: autoregressively over a memory of past frames, or all shots jointly.

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
    """Settings of the keyframe sampler.

    Attributes:
        mode: `extend`, shot by shot over a memory that attends to itself only; `causal`, shot by shot, each frame attending
            to all before it; `joint`, all shots at once.
        num_steps: Euler steps.
        context_noise: noise level of the memory frames.

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
            raise UserError(f"sampling.context_noise is {self.context_noise}: it must be between 0 and 1")


@dataclass(frozen=True)
class Reference:
    """An external frame that enters the memory of all shots.

    Attributes:
        frame: (3, height, width) in [-1, 1].
        caption: caption of its content.
        tags: its characters and places.
    """

    frame: Float[Tensor, "3 height width"]
    caption: str
    tags: Collection[str]


@dataclass(frozen=True)
class Remembered:
    """One frame in the memory of a shot.

    Attributes:
        source: index of the shot, or -1, -2, ... for the first, second, ... reference.
        grid: rows and columns of tokens after resizing.
    """

    source: int
    grid: Grid


@dataclass(frozen=True)
class Keyframe:
    """The keyframe of one shot.

    Attributes:
        frame: (3, height, width) in [-1, 1].
        remembered: frames of its memory, most important first.
        tokens: image and text tokens of memory and shot; 0 for a given keyframe.
        seconds: wall time of sampling, divided by the number of shots that are sampled at once.
        note: changes made to meet the memory budget; empty if there are none.
    """

    frame: Float[Tensor, "3 height width"]
    remembered: tuple[Remembered, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass
class _Past:
    """Frames that a shot can have in its memory, oldest first."""

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
        memory: policy that selects and sizes the memory frames.
        sampling: steps and mode.
        image_size: (height, width) of a keyframe in pixels.

    Attributes:
        sampling: steps and mode.
        pixels_per_token: side of a token, in pixels.
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
        """Samples the keyframes of one storyboard.

        Args:
            storyboard: shots to sample.
            fixed: given frames by 0-based shot, so that single shots can be resampled; fixed frames of later shots are
                part of the memory too.
            references: external frames in the memory of all shots.

        Raises:
            UserError: if the size of a fixed frame or reference differs from `image_size`.
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
        """Samples storyboards with the same number of shots in one batch; the results do not depend on the batch.

        Args:
            storyboards: shots to sample.
            fixed: given frames by 0-based shot, one per storyboard.
            references: external frames in the memory of all shots.

        Raises:
            UserError: if the storyboards differ in length, or the size of a fixed frame or reference differs from `image_size`.
        """
        count = len(storyboards[0].shots)
        if any(len(board.shots) != count for board in storyboards):
            raise UserError("storyboards of one batch have different numbers of shots: sample them separately")
        kept = dict(fixed or {})
        for frame in (*kept.values(), *(reference.frame for reference in references)):
            if tuple(frame.shape[-2:]) != self._size:
                raise UserError(
                    f"a frame is {frame.shape[-2]} x {frame.shape[-1]} but image_size is {self._size[0]} x {self._size[1]}: resize it"
                )
        captions = [self._model.encode_captions(board.captions()) for board in storyboards]
        kept = {index: frames.to(captions[0].tokens.device) for index, frames in kept.items()}
        if self.sampling.mode == "joint":
            return self._sample_jointly(storyboards, captions, kept)
        # Under causal attention past frames keep the captions that they were sampled with. A memory has captions without
        # descriptions, as in training, so that looks are taken from its frames.
        named = captions
        if self.sampling.mode == "extend":
            named = [self._model.encode_captions([shot.caption for shot in board.shots]) for board in storyboards]
        pasts = [self._referenced(references) for _ in storyboards]
        found: list[list[Keyframe]] = [[] for _ in storyboards]
        for index in range(count):
            if index in kept:
                keyframes = [Keyframe(frame) for frame in kept[index]]
            else:
                later = {other: frames for other, frames in sorted(kept.items()) if other > index}
                views = [
                    _with_later(past, {other: frames[row] for other, frames in later.items()}, storyboards[row], named[row])
                    for row, past in enumerate(pasts)
                ]
                keyframes = self._sample_shot(storyboards, captions, views, index)
            for row, keyframe in enumerate(keyframes):
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
            # The most important frame comes last and attends to all others.
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
        """Keyframes in [-1, 1] from noise (batch, frames, channels, rows, columns), which is changed; `kept` frames stay fixed."""
        space, (batch, count) = self._model.space, noise.shape[:2]
        # Under extend attention the keys and values of the memory do not depend on the step and are computed once.
        keys_values = self._model.remember(memory) if memory and attention == "extend" else None
        context = [] if keys_values is not None else list(memory)
        position_ids = torch.arange(count - 1, -1, -1, device=noise.device).float().expand(batch, -1)  # 0 for the newest
        free = torch.ones(batch, count, device=noise.device)
        for index, frames in (kept or {}).items():
            free[:, index] = 0.0
            noise[:, index] = space.encode(frames)

        def velocity(points: Tensor, times: Tensor) -> Tensor:
            target = Frames(points, captions, times, position_ids)
            return self._model.velocity([*context, target], attention=attention, memory=keys_values)[-1]

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
    """The past, preceded by the fixed frames of later shots as its oldest frames."""
    if not later:
        return past
    whole = _Past()
    for index, frame in later.items():
        whole.add(frame, captions[index], board.shots[index].tags, index)
    for values in zip(past.frames, past.captions, past.tags, past.sources, strict=True):
        whole.add(*values)
    return whole


def _seed(board: Storyboard, index: int) -> int:
    own = board.shots[index].seed
    return derive_seed(board.seed, "shot", index) if own is None else own
