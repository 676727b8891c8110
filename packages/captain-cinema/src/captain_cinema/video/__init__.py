"""The contract of a video generator: keyframes and a storyboard in, one clip per shot out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard


@dataclass(frozen=True)
class Clip:
    """One shot in motion.

    Attributes:
        frames: RGB, all clips of a film in one size.
        sound: samples in [-1, 1], where the generator makes some.
        sample_rate: of the sound, in samples per second.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    sound: Float[Tensor, "channels samples"] | None = None
    sample_rate: int | None = None


class VideoGenerator(Protocol):
    """Samples the frames between keyframes; each keyframe is the first frame of its shot (arXiv 2507.18634, section 3.4).

    Attributes:
        animates: whether characters act; else only the camera moves.
        scale: a clip's frames are so many times as large as the keyframes.
    """

    animates: bool
    scale: int

    def num_frames(self, seconds: float, frames_per_second: Fraction) -> int:
        """Frames of a shot of that length, at least one: which lengths are possible is the generator's to say."""
        ...

    def clips(
        self, storyboard: Storyboard, keyframes: Sequence[Float[Tensor, "3 height width"]], *, frames_per_second: Fraction
    ) -> Iterator[Clip]:
        """The clips of all shots in order, each made when it is asked for: a film is never whole in memory.

        What can be refused is refused by the call itself, before the first clip is asked for.

        Args:
            storyboard: captions, lengths and seeds.
            keyframes: one per shot, in [-1, 1].
            frames_per_second: of the film.

        Raises:
            UserError: if a caption cannot be read.
        """
        ...


def num_clip_frames(seconds: float, frames_per_second: Fraction) -> int:
    """Frames of a shot where any number is possible, at least one.

    Example:
        >>> num_clip_frames(1.5, Fraction(24))
        36
    """
    return max(1, round(seconds * frames_per_second))
