"""Motion without a model: a slow camera over every keyframe, and cross-fades where the place stays the same."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from captain_cinema.storyboard import Storyboard
from captain_cinema.video import num_clip_frames
from triptych.errors import UserError
from triptych.seeding import derive_seed, generator


class CameraMoves:
    """Pans and zooms; the next shot at the same place fades in.

    The first frame of every clip is the keyframe itself.

    Args:
        zoom: how much of the frame's side a move crosses, as a share.
        fade_seconds: length of a cross-fade at the end of a shot; 0 for none.

    Raises:
        UserError: if the zoom lies outside 0 to 0.5, or the fade is negative.
    """

    animates = False

    def __init__(self, *, zoom: float = 0.12, fade_seconds: float = 0.25) -> None:
        if not 0 <= zoom < 0.5 or fade_seconds < 0:
            raise UserError(f"video.zoom is {zoom} and video.fade_seconds {fade_seconds}: give 0 to 0.5, and 0 or more")
        self._zoom = zoom
        self._fade = fade_seconds

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "channels height width"]], *, frames_per_second: int
    ) -> list[Float[Tensor, "frames channels height width"]]:
        """See `VideoGenerator`."""
        found = []
        for index, (shot, frame) in enumerate(zip(storyboard.shots, keyframes, strict=True)):
            count = num_clip_frames(shot.seconds, frames_per_second)
            clip = self._move(frame, count, derive_seed(storyboard.seed, "camera", index))
            follows = index + 1 < len(storyboard.shots) and shot.place is not None and storyboard.shots[index + 1].place == shot.place
            fading = min(count - 1, round(self._fade * frames_per_second)) if follows else 0
            if fading > 0:
                share = torch.linspace(0, 1, fading + 1)[1:].view(-1, 1, 1, 1).to(frame)
                clip[-fading:] = torch.lerp(clip[-fading:], keyframes[index + 1].expand_as(clip[-fading:]), share)
            found.append(clip)
        return found

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
