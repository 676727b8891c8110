"""The contract of a video generator: keyframes and a storyboard in, one clip per shot out."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from captain_cinema.storyboard import Storyboard


class VideoGenerator(Protocol):
    """Draws the frames between keyframes; each keyframe is the first frame of its shot (arXiv 2507.18634, section 3.4).

    Attributes:
        animates: whether characters act; else only the camera moves.
    """

    animates: bool

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "channels height width"]], *, frames_per_second: int
    ) -> list[Float[Tensor, "frames channels height width"]]:
        """One clip per shot, each of `round(seconds * frames_per_second)` frames in [-1, 1], at least one.

        Args:
            storyboard: captions, lengths and seeds.
            keyframes: one per shot, in [-1, 1].
            frames_per_second: of the film.
        """
        ...


def num_clip_frames(seconds: float, frames_per_second: int) -> int:
    """Frames of a shot, at least one.

    Example:
        >>> num_clip_frames(1.5, 24)
        36
    """
    return max(1, round(seconds * frames_per_second))
