"""Motion without a model: a slow camera over every keyframe, and cross-fades where the place stays the same."""

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
    """Pans and zooms; the next shot at the same place fades in.

    The first frame of every clip is the keyframe itself.

    Args:
        zoom: how much of the frame's side a move crosses, as a share.
        fade_seconds: length of a cross-fade at the end of a shot; 0 for none.
        scale: frames are so many times as large as the keyframes.
        device: where frames are resampled.

    Raises:
        UserError: if the zoom lies outside 0 to 0.5, the fade is negative, or the scale below 1.
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
            share = torch.linspace(0, 1, fading + 1)[1:].view(-1, 1, 1, 1).to(frame)
            clip[-fading:] = torch.lerp(clip[-fading:], keyframes[index + 1].expand_as(clip[-fading:]), share)
        return clip

    def _move(self, frame: Tensor, count: int, seed: int) -> Tensor:
        """Zooms in towards a random point of the middle, with an ease at both ends."""
        towards = 0.5 * (torch.rand(2, generator=generator(seed, "point")) - 0.5)
        progress = torch.linspace(0, 1, count)
        eased = self._zoom * (3 * progress.square() - 2 * progress**3)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 - eased
        theta[:, :, 2] = eased[:, None] * towards[None] * 2
        grid = functional.affine_grid(theta.to(frame), [count, *frame.shape], align_corners=False)
        views = functional.grid_sample(
            frame[None].expand(count, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        views[0] = frame
        return views
