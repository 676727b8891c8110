"""Clips from a diffusion transformer, conditioned on the keyframe of the shot (its first frame) and those of other shots.

Source: Captain Cinema (arXiv 2507.18634), section 3.4: interleaved conditioning on many keyframes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.images import to_bytes
from captain_cinema.models import CaptionEmbeddings, Frames, KeyframeModel, LatentSpace, encode_frames
from captain_cinema.numerics.flow import euler_sample
from captain_cinema.numerics.memory import golden_sides, plan_memory
from captain_cinema.video import Clip, num_clip_frames
from triptych.errors import UserError
from triptych.seeding import derive_seed, generator

# Distance in position ids (frames) between the keyframes of consecutive shots.
_SHOT_LENGTH = 16


@dataclass
class ClipConditioning:
    """Selection and size of the keyframes of other shots that condition a clip.

    Attributes:
        num_keyframes: number of keyframes, the nearest in time, before and after; 0 for none.
        frames_per_level: keyframes at each size; sizes shrink by the golden ratio, starting one level below a full frame.

    Raises:
        UserError: if `num_keyframes` is negative or `frames_per_level` below 1.
    """

    num_keyframes: int = 4
    frames_per_level: int = 2

    def __post_init__(self) -> None:
        if self.num_keyframes < 0 or self.frames_per_level < 1:
            raise UserError(
                f"conditioning.num_keyframes is {self.num_keyframes} and frames_per_level {self.frames_per_level}: "
                "give 0 or more, and 1 or more"
            )

    def frames(
        self,
        keyframes: Float[Tensor, "batch shots 3 height width"],
        captions: CaptionEmbeddings,
        indices: Sequence[int],
        space: LatentSpace,
    ) -> list[Frames]:
        """The keyframes nearest to shot `indices` of each story, nearest first, as clean frames with their times as position ids."""
        patch = space.pixels_per_token
        num_shots = keyframes.shape[1]
        kept = min(self.num_keyframes, num_shots - 1)
        if kept == 0:
            return []
        side = min(keyframes.shape[-2:]) // patch
        sides = golden_sides(side, min_side=1)[1:] or (1,)
        aspect = keyframes.shape[-1] / keyframes.shape[-2]
        plan = plan_memory(kept, sides=sides, aspect=aspect, frames_per_level=self.frames_per_level)
        ranked = [
            sorted((other for other in range(num_shots) if other != index), key=lambda other: (abs(other - index), other))[:kept]
            for index in indices
        ]
        # (batch, kept) shot indices; rows (batch, 1) gathers frames and captions in rank order. Position ids are signed offsets.
        order = torch.tensor(ranked, device=keyframes.device)[:, : len(plan.grids)]
        rows = torch.arange(len(keyframes), device=keyframes.device)[:, None]
        chosen, chosen_captions = keyframes[rows, order], captions[rows, order]
        position_ids = _SHOT_LENGTH * (order - torch.tensor(list(indices), device=order.device)[:, None]).to(keyframes)
        found, begin = [], 0
        for grid, count in plan.groups:
            span = slice(begin, begin + count)
            part = chosen[:, span]
            size = (grid[0] * patch, grid[1] * patch)
            small = functional.interpolate(part.flatten(0, 1), size, mode="area").unflatten(0, part.shape[:2])
            times = torch.zeros(part.shape[:2]).to(keyframes)
            found.append(Frames(encode_frames(space, small), chosen_captions[:, span], times, position_ids[:, span], is_memory=True))
            begin += count
        return found


class DiffusionClips:
    """A `VideoGenerator` that samples every clip from its keyframe, its caption and the keyframes of other shots.

    The model samples a fixed number of frames; longer shots repeat frames, shorter ones skip frames.

    Args:
        model: a model trained on clips.
        conditioning: selection of the keyframes of other shots.
        frames_per_clip: frames per clip in training.
        num_steps: Euler steps.
        scale: upscaling factor of the frames relative to the keyframes.

    Raises:
        UserError: if a number is out of range.
    """

    animates = True

    def __init__(
        self,
        model: KeyframeModel,
        *,
        frames_per_clip: int,
        conditioning: ClipConditioning | None = None,
        num_steps: int = 8,
        scale: int = 1,
    ) -> None:
        if frames_per_clip < 2 or num_steps < 1 or scale < 1:
            raise UserError(
                f"video.frames_per_clip is {frames_per_clip}, video.num_steps {num_steps} and scale {scale}: give 2, 1 and 1 or more"
            )
        self.scale = scale
        self._model = model
        self._conditioning = conditioning or ClipConditioning()
        self._frames_per_clip = frames_per_clip
        self._num_steps = num_steps

    def num_frames(self, seconds: float, frames_per_second: Fraction) -> int:
        """Any number of frames, as frames are repeated; see `VideoGenerator`."""
        return num_clip_frames(seconds, frames_per_second)

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "3 height width"]], *, frames_per_second: Fraction
    ) -> Iterator[Clip]:
        """See `VideoGenerator`."""
        captions = self._model.encode_captions([shot.caption for shot in storyboard.shots])
        frames = torch.stack(list(keyframes)).to(captions.tokens.device)
        return (self._clip(storyboard, frames, captions, index, frames_per_second) for index in range(len(storyboard.shots)))

    def _clip(self, storyboard: Storyboard, frames: Tensor, captions: CaptionEmbeddings, index: int, frames_per_second: Fraction) -> Clip:
        shot = storyboard.shots[index]
        seed = derive_seed(storyboard.seed, "clip", index) if shot.seed is None else derive_seed(shot.seed, "clip")
        clip = self.animate(frames[None], captions[None], [index], seeds=[seed])[0]
        count = self.num_frames(shot.seconds, frames_per_second)
        # Whole frames are repeated: blending two of them would show a moving character twice.
        held = clip[(torch.arange(count) * self._frames_per_clip).div(count, rounding_mode="floor")]
        return Clip(to_bytes(held, scale=self.scale))

    @torch.no_grad()
    def animate(
        self,
        keyframes: Float[Tensor, "batch shots 3 height width"],
        captions: CaptionEmbeddings,
        indices: Sequence[int],
        *,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch frames 3 height width"]:
        """The frames of one shot of each story, in [-1, 1]; the first one is the keyframe itself.

        Args:
            keyframes: of all shots.
            captions: of all shots, from the model's `encode_captions`.
            indices: index of the shot of each story.
            seeds: seeds of the noise, one per story.
        """
        space, count = self._model.space, self._frames_per_clip
        batch, rows = len(keyframes), torch.arange(len(keyframes))
        own = keyframes[rows, list(indices)]
        own_captions = captions[rows, list(indices)].map(lambda tensor: repeat_frames(tensor, count))
        around = self._conditioning.frames(keyframes, captions, indices, space)
        first = space.encode(own)
        noise = torch.stack([torch.randn(count, *first.shape[1:], generator=generator(seed, "noise")) for seed in seeds]).to(first)
        # Frame 0 of (batch, frames, channels, rows, columns) is the clean keyframe and stays fixed.
        free = torch.ones(batch, count).to(first)
        free[:, 0] = 0
        noisy = torch.where(free[:, :, None, None, None] > 0, noise, first[:, None])
        position_ids = torch.arange(count).to(first).expand(batch, -1)

        def velocity(points: Tensor, times: Tensor) -> Tensor:
            return self._model.velocity([*around, Frames(points, own_captions, times, position_ids)], attention="joint")[-1]

        num_tokens = own.shape[-2] * own.shape[-1] // space.pixels_per_token**2
        latents = euler_sample(velocity, noisy, self._model.sigmas(self._num_steps, num_tokens).tolist(), free=free)
        return space.decode(latents.flatten(0, 1)).unflatten(0, (batch, count)).clamp(-1, 1)


def repeat_frames(tensor: Shaped[Tensor, "batch ..."], count: int) -> Shaped[Tensor, "batch frames ..."]:
    """One row per sequence, expanded to all its frames."""
    return tensor[:, None].expand(-1, count, *tensor.shape[1:])
