"""Clips by a small diffusion transformer: the frames of a shot, its own keyframe first, beside the keyframes of other shots.

Source: Captain Cinema (arXiv 2507.18634), section 3.4: interleaved conditioning on many keyframes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from captain_cinema.data.drawing import CLIP_FRAMES
from captain_cinema.flow import euler_step, sampling_timesteps
from captain_cinema.memory import golden_sides, plan_memory
from captain_cinema.models import FrameGroup, KeyframeModel
from captain_cinema.storyboard import Storyboard
from captain_cinema.video import num_clip_frames
from triptych.errors import UserError
from triptych.seeding import derive_seed, generator

# Frames from the beginning of one shot to that of the next on the axis of time.
_SHOT_LENGTH = 16


@dataclass
class ClipConditioning:
    """Which keyframes of other shots a clip sees.

    Attributes:
        num_keyframes: the nearest in time, before and after alike; 0 for none.
        frames_per_level: keyframes at each size; sizes shrink by the golden ratio from half a frame downwards.

    Raises:
        UserError: if a number is negative, or no frame goes on a level.
    """

    num_keyframes: int = 4
    frames_per_level: int = 2

    def __post_init__(self) -> None:
        if self.num_keyframes < 0 or self.frames_per_level < 1:
            raise UserError(
                f"conditioning.num_keyframes is {self.num_keyframes} and frames_per_level {self.frames_per_level}: "
                "give 0 or more, and 1 or more"
            )

    def groups(
        self,
        keyframes: Float[Tensor, "batch shots channels height width"],
        captions: Shaped[Tensor, "batch shots ..."],
        indices: Sequence[int],
        *,
        patch: int,
    ) -> list[FrameGroup]:
        """The keyframes around each story's shot `indices`, nearest first, as clean frames at their places in time."""
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
        order = torch.tensor(ranked, device=keyframes.device)[:, : len(plan.grids)]
        rows = torch.arange(len(keyframes), device=keyframes.device)[:, None]
        chosen, said = keyframes[rows, order], captions[rows, order]
        slots = _SHOT_LENGTH * (order - torch.tensor(list(indices), device=order.device)[:, None]).to(keyframes)
        found, begin = [], 0
        for grid, count in plan.groups:
            part = chosen[:, begin : begin + count]
            size = (grid[0] * patch, grid[1] * patch)
            small = functional.interpolate(part.flatten(0, 1), size, mode="area").unflatten(0, part.shape[:2])
            times = torch.zeros(part.shape[:2]).to(keyframes)
            found.append(FrameGroup(small, said[:, begin : begin + count], times, slots[:, begin : begin + count], is_memory=True))
            begin += count
        return found


class DiffusionClips:
    """A `VideoGenerator`: every shot's clip from its keyframe, its caption and the keyframes around it.

    The model draws a fixed number of frames; a longer or faster shot holds or skips frames.

    Args:
        model: trained on clips.
        conditioning: other shots' keyframes.
        num_frames: that the model was trained on.
        num_steps: Euler steps.
        shift: of the timesteps towards noise.

    Raises:
        UserError: if a number is out of range.
    """

    animates = True

    def __init__(
        self,
        model: KeyframeModel,
        *,
        conditioning: ClipConditioning | None = None,
        num_frames: int = CLIP_FRAMES,
        num_steps: int = 8,
        shift: float = 1.0,
    ) -> None:
        if num_frames < 2 or num_steps < 1:
            raise UserError(f"video.num_frames is {num_frames} and video.num_steps {num_steps}: give 2 or more, and 1 or more")
        self._model = model
        self._conditioning = conditioning or ClipConditioning()
        self._num_frames = num_frames
        self._num_steps = num_steps
        self._shift = shift

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "channels height width"]], *, frames_per_second: int
    ) -> list[Float[Tensor, "frames channels height width"]]:
        """See `VideoGenerator`."""
        said = self._model.encode_captions([shot.caption for shot in storyboard.shots])
        frames = torch.stack(list(keyframes)).to(said.device)
        found = []
        for index, shot in enumerate(storyboard.shots):
            seed = derive_seed(storyboard.seed, "clip", index) if shot.seed is None else derive_seed(shot.seed, "clip")
            clip = self.animate(frames[None], said[None], [index], seeds=[seed])[0]
            count = num_clip_frames(shot.seconds, frames_per_second)
            # Whole frames are held: a mixture of two would show nobody as a ghost.
            found.append(clip[(torch.arange(count) * self._num_frames).div(count, rounding_mode="floor")])
        return found

    @torch.no_grad()
    def animate(
        self,
        keyframes: Float[Tensor, "batch shots channels height width"],
        captions: Shaped[Tensor, "batch shots ..."],
        indices: Sequence[int],
        *,
        seeds: Sequence[int],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """The frames of one shot of each story, in [-1, 1]; the first one is the keyframe itself.

        Args:
            keyframes: of all shots.
            captions: of all shots, from the model's `encode_captions`.
            indices: the shot of each story.
            seeds: of the noise, one per story.
        """
        batch = len(keyframes)
        rows = torch.arange(batch)
        own, said = keyframes[rows, list(indices)], captions[rows, list(indices)]
        around = self._conditioning.groups(keyframes, captions, indices, patch=self._model.patch)
        noise = torch.stack([torch.randn(self._num_frames, *own.shape[1:], generator=generator(seed, "noise")) for seed in seeds]).to(own)
        free = torch.ones(batch, self._num_frames).to(own)
        free[:, 0] = 0
        noisy = torch.where(free[:, :, None, None, None] > 0, noise, own[:, None])
        spoken = said[:, None].expand(-1, self._num_frames, *said.shape[1:])
        slots = torch.arange(self._num_frames).to(own).expand(batch, -1)
        for begin, end in itertools.pairwise(sampling_timesteps(self._num_steps, shift=self._shift).tolist()):
            velocity = self._model.velocity([*around, FrameGroup(noisy, spoken, free * begin, slots)], attention="joint")[-1]
            moved = euler_step(noisy.flatten(0, 1), velocity.flatten(0, 1), (free * begin).flatten(), (free * end).flatten())
            noisy = moved.view_as(noisy)
        return noisy.clamp(-1, 1)
