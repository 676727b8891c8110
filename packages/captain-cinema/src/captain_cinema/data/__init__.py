"""What models train on: contracts of stories with keyframes and of shots in motion; and storyboards."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard


class KeyframeExample(Protocol):
    """A past, and alternative shots that may come next."""

    @property
    def storyboard(self) -> Storyboard:
        """Captions and tags of the past, oldest first, then those of the alternatives; descriptions of all who appear."""
        ...

    @property
    def past_frames(self) -> Float[Tensor, "past 3 height width"]:
        """Keyframes of the past, in [-1, 1]."""
        ...

    @property
    def next_frames(self) -> Float[Tensor, "alternatives 3 height width"]:
        """Keyframes of the alternatives; they show the same characters and places, so that they ask the past for the same."""
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
    """A shot in motion, and the keyframes of the shots around it."""

    @property
    def storyboard(self) -> Storyboard:
        """Captions of all shots."""
        ...

    @property
    def index(self) -> int:
        """Which shot moves."""
        ...

    @property
    def keyframes(self) -> Float[Tensor, "shots 3 height width"]:
        """Of all shots, in [-1, 1]."""
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
