"""Contracts of training data: stories with keyframes, and shots with clips. Storyboards are in `storyboard`."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard


class KeyframeExample(Protocol):
    """The past of a story and alternative next shots."""

    @property
    def storyboard(self) -> Storyboard:
        """Shots of the past, oldest first, then the alternatives, with descriptions of all characters and places."""
        ...

    @property
    def past_frames(self) -> Float[Tensor, "past 3 height width"]:
        """Keyframes of the past, in [-1, 1]."""
        ...

    @property
    def next_frames(self) -> Float[Tensor, "alternatives 3 height width"]:
        """Keyframes of the alternatives, all with the same characters and place, so that one memory serves them all."""
        ...


class KeyframeData(Protocol):
    """Contract of training data for a keyframe model.

    Attributes:
        num_examples: size of the training set.
        image_size: pixels of a side.
    """

    num_examples: int
    image_size: int

    def examples(self, indices: Sequence[int], *, num_past: int) -> Sequence[KeyframeExample]:
        """The examples of `indices`, each with `num_past` shots before its alternatives."""
        ...


class ClipExample(Protocol):
    """A clip of one shot, and the keyframes of all shots of its story."""

    @property
    def storyboard(self) -> Storyboard:
        """Captions of all shots."""
        ...

    @property
    def index(self) -> int:
        """Index of the shot that the clip shows."""
        ...

    @property
    def keyframes(self) -> Float[Tensor, "shots 3 height width"]:
        """Keyframes of all shots, in [-1, 1]."""
        ...

    @property
    def clip(self) -> Float[Tensor, "frames 3 height width"]:
        """The frames of the shot, its keyframe first."""
        ...


class ClipData(Protocol):
    """Contract of training data for a video model.

    Attributes:
        num_examples: size of the training set.
    """

    num_examples: int

    def examples(self, indices: Sequence[int]) -> Sequence[ClipExample]:
        """The shots of `indices`."""
        ...
