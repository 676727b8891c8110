"""What looks at pictures: rewards that choose, features that cluster, verifiers that count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class Reward(Protocol):
    """What resampling and the final choice look at.

    Attributes:
        image_size: longest side in pixels that it looks at; None for the full picture.
        flops_per_image: operations per picture.
    """

    image_size: int | None
    flops_per_image: float

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards of pictures in [0, 1], one prompt per picture."""
        ...


class Features(Protocol):
    """What clustering looks at.

    Attributes:
        image_size: longest side in pixels that it looks at; None for the full picture.
        flops_per_image: operations per picture.
    """

    image_size: int | None
    flops_per_image: float

    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens channels"]:
        """Patch features of pictures in [0, 1]."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Which parts of a prompt hold in a picture.

    Attributes:
        parts: part in words -> whether it holds; empty where nothing could be verified.
        note: why nothing could be verified; empty otherwise.
    """

    parts: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""

    @property
    def correct(self) -> bool:
        """Whether every part holds; false where nothing could be verified."""
        return bool(self.parts) and all(self.parts.values())


class Verifier(Protocol):
    """Reads a picture and says which parts of a prompt hold."""

    def __call__(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """The verdict on a picture in [0, 1]; without parts and with a note where the prompt or the size is not one it reads."""
        ...


def no_verdict(image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
    """A `Verifier` that checks nothing."""
    return Verdict(note="not verified")
