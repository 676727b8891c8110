"""Films from storylines: the contracts of planners and verifiers."""

from collections.abc import Mapping
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.video import Clip


class Planner(Protocol):
    """Contract of planners, which map storylines to storyboards."""

    def __call__(self, storyline: str, *, seed: int) -> Storyboard:
        """The storyboard of a storyline.

        Args:
            storyline: the events in plain text.
            seed: seed of the choices that the storyline leaves open.

        Raises:
            UserError: if the storyline cannot be parsed.
        """
        ...


class Verifier(Protocol):
    """Contract of verifiers, which compare a shot with its description in the storyboard."""

    def __call__(
        self, storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None
    ) -> Mapping[str, bool]:
        """Whether each verified detail is right, by name; empty if the storyboard lacks the descriptions.

        Args:
            storyboard: descriptions and captions.
            index: index of the shot.
            keyframe: in [-1, 1].
            clip: clip of the shot if its characters act; None skips the action.
        """
        ...


def no_verdict(storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None) -> dict[str, bool]:
    """A `Verifier` without any checks."""
    return {}
