"""The contract of video generators, which animate the keyframes of a storyboard, one clip per shot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard


@dataclass(frozen=True)
class Clip:
    """The clip of one shot.

    Attributes:
        frames: RGB frames, of one size for all clips of a film.
        sound: samples in [-1, 1]; None without sound.
        sample_rate: samples per second; None without sound.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    sound: Float[Tensor, "channels samples"] | None = None
    sample_rate: int | None = None


class VideoGenerator(Protocol):
    """Samples the frames between keyframes; each keyframe is the first frame of its shot (arXiv 2507.18634, section 3.4).

    Attributes:
        animates: whether characters act; otherwise only the camera moves.
        scale: upscaling factor of the frames relative to the keyframes.
    """

    animates: bool
    scale: int

    def num_frames(self, seconds: float, frames_per_second: Fraction) -> int:
        """Number of frames of a shot of that duration, at least one; generators may support only some numbers."""
        ...

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "3 height width"]], *, frames_per_second: Fraction
    ) -> Iterator[Clip]:
        """The clips of all shots in order, generated lazily so that a film is never in memory as a whole.

        The call itself validates its arguments, before the first clip is requested.

        Args:
            storyboard: captions, durations and seeds.
            keyframes: one per shot, in [-1, 1].
            frames_per_second: frame rate of the film.

        Raises:
            UserError: if a caption cannot be parsed.
        """
        ...


def num_clip_frames(seconds: float, frames_per_second: Fraction) -> int:
    """Number of frames of a shot, rounded, at least one; for generators without restrictions.

    Example:
        >>> num_clip_frames(1.5, Fraction(24))
        36
    """
    return max(1, round(seconds * frames_per_second))
