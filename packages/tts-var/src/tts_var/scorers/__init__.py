"""Contracts of scorers (rewards for resampling, features for clustering) and of verifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class Reward(Protocol):
    """Contract of rewards, which resampling and the final choice use.

    Attributes:
        image_size: longest side of its input in pixels; None for the full image.
        flops_per_image: floating-point operations per image.
    """

    image_size: int | None
    flops_per_image: float

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Rewards of images in [0, 1], one prompt per image."""
        ...


class Features(Protocol):
    """Contract of features, which clustering uses.

    Attributes:
        image_size: longest side of its input in pixels; None for the full image.
        flops_per_image: floating-point operations per image.
    """

    image_size: int | None
    flops_per_image: float

    def __call__(self, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows tokens channels"]:
        """Patch features of images in [0, 1]."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Which parts of a prompt hold in an image.

    Attributes:
        parts: maps the text of each part to whether it holds; empty if no part could be verified.
        note: reason why no part could be verified; empty otherwise.
    """

    parts: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""

    @property
    def correct(self) -> bool:
        """Whether every part holds; false if no part could be verified."""
        return bool(self.parts) and all(self.parts.values())


class Verifier(Protocol):
    """Contract of verifiers, which detect from the pixels which parts of a prompt hold."""

    def __call__(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """The verdict on an image in [0, 1]; without parts and with a note if the prompt or the size is not supported."""
        ...


def no_verdict(image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
    """A `Verifier` without parts for every image."""
    return Verdict(note="not verified")
