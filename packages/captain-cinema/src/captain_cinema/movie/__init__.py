"""From a storyline to a film; the contracts of planners and verifiers."""

from collections.abc import Mapping
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.video import Clip


class Planner(Protocol):
    """Contract of planners: a storyline becomes a storyboard."""

    def __call__(self, storyline: str, *, seed: int) -> Storyboard:
        """The storyboard of a storyline.

        Args:
            storyline: what happens, in words.
            seed: of whatever the storyline leaves open.

        Raises:
            UserError: if the storyline cannot be understood.
        """
        ...


class Verifier(Protocol):
    """Contract of verifiers: what of a shot is as the storyboard says."""

    def __call__(
        self, storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None
    ) -> Mapping[str, bool]:
        """What was checked, and whether it holds; empty where the storyboard does not say enough.

        Args:
            storyboard: descriptions and captions.
            index: of the shot.
            keyframe: in [-1, 1].
            clip: the shot in motion, where its characters act; None leaves the action unread.
        """
        ...


def no_verdict(storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None) -> dict[str, bool]:
    """A `Verifier` that checks nothing."""
    return {}
