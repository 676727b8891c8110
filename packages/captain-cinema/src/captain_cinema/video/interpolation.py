"""Clips without a model: a slow zoom into every keyframe, and cross-fades between shots at the same place."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.images import to_bytes
from captain_cinema.video import Clip, num_clip_frames
from triptych.errors import UserError
from triptych.seeding import derive_seed, generator


class CameraMoves:
    """A `VideoGenerator` that pans and zooms, with a cross-fade into a next shot at the same place.

    The first frame of every clip is the keyframe itself.

    Args:
        zoom: fraction of the frame side that is cropped at the end of a clip.
        fade_seconds: duration of a cross-fade at the end of a shot; 0 for none.
        scale: upscaling factor of the frames relative to the keyframes.
        device: device on which frames are resampled.

    Raises:
        UserError: if the zoom is below 0 or at least 0.5, the fade is negative, or the scale is below 1.
    """

    animates = False

    def __init__(self, *, zoom: float = 0.12, fade_seconds: float = 0.25, scale: int = 1, device: torch.device | str = "cpu") -> None:
        if not 0 <= zoom < 0.5 or fade_seconds < 0 or scale < 1:
            raise UserError(
                f"video.zoom is {zoom}, video.fade_seconds {fade_seconds} and scale {scale}: give 0 to 0.5, 0 or more, and 1 or more"
            )
        self.scale = scale
        self._zoom = zoom
        self._fade = fade_seconds
        self._device = torch.device(device)

    def num_frames(self, seconds: float, frames_per_second: Fraction) -> int:
        """Any number of frames; see `VideoGenerator`."""
        return num_clip_frames(seconds, frames_per_second)

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "3 height width"]], *, frames_per_second: Fraction
    ) -> Iterator[Clip]:
        """See `VideoGenerator`."""
        frames = [frame.to(self._device) for frame in keyframes]
        indices = range(len(storyboard.shots))
        return (Clip(to_bytes(self._clip(storyboard, frames, index, frames_per_second), scale=self.scale)) for index in indices)

    def _clip(self, storyboard: Storyboard, keyframes: Sequence[Tensor], index: int, frames_per_second: Fraction) -> Tensor:
        shot, frame = storyboard.shots[index], keyframes[index]
        count = self.num_frames(shot.seconds, frames_per_second)
        clip = self._move(frame, count, derive_seed(storyboard.seed, "camera", index))
        follows = index + 1 < len(storyboard.shots) and shot.place is not None and storyboard.shots[index + 1].place == shot.place
        fading = min(count - 1, round(self._fade * frames_per_second)) if follows else 0
        if fading > 0:
            weight = torch.linspace(0, 1, fading + 1)[1:].view(-1, 1, 1, 1).to(frame)
            clip[-fading:] = torch.lerp(clip[-fading:], keyframes[index + 1].expand_as(clip[-fading:]), weight)
        return clip

    def _move(self, frame: Tensor, count: int, seed: int) -> Tensor:
        """A zoom (frames, 3, height, width) towards a random point near the centre, with smooth start and end."""
        towards = 0.5 * (torch.rand(2, generator=generator(seed, "point")) - 0.5)
        progress = torch.linspace(0, 1, count)
        eased = self._zoom * (3 * progress.square() - 2 * progress**3)
        # One affine map per frame: scale 1 - eased on the diagonal, translation towards the point in the last column.
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 - eased
        theta[:, :, 2] = eased[:, None] * towards[None] * 2
        grid = functional.affine_grid(theta.to(frame), [count, *frame.shape], align_corners=False)
        views = functional.grid_sample(
            frame[None].expand(count, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        views[0] = frame
        return views
