"""Contracts of scorers (rewards for resampling, features for clustering) and of verifiers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.errors import UserError


class Reward(Protocol):
    """Contract of rewards, which resampling and the final choice use.

    A plain function is a reward too: the attributes are optional, and default to the full image and 0.

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
    """Contract of features, which clustering uses; like a reward, it may be a plain function.

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
class Scorer:
    """A reward or features with the attributes of their contract and checked results.

    Attributes:
        name: `reward` or `features`, for messages.
        function: the reward or the features.
        image_size: longest side of its input in pixels; None for the full image.
        flops_per_image: floating-point operations per image.
    """

    name: str
    function: Callable[..., Any]
    image_size: int | None = None
    flops_per_image: float = 0.0

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "Scorer":
        """The scorer of a function or of an object with the attributes of the contract.

        Raises:
            UserError: if it cannot be called.
        """
        if not callable(function):
            raise UserError(f"{name} is {function!r}: give a function of images, or an object that can be called")
        return cls(name, function, getattr(function, "image_size", None), getattr(function, "flops_per_image", 0.0))

    def __call__(self, images: Float[Tensor, "rows 3 height width"], *prompts: Sequence[str]) -> Tensor:
        """Its result in float32 on the CPU: (rows,) for a reward, (rows, tokens, channels) for features.

        Raises:
            UserError: if the result has another shape, or is not finite.
        """
        found = torch.as_tensor(self.function(images, *prompts)).float().cpu()
        one = self.name == "reward"
        form, sides = ("one number per image", 1) if one else ("(images, tokens, channels)", 3)
        if found.dim() != sides or len(found) != len(images):
            raise UserError(f"the {self.name} of {len(images)} images {'has' if one else 'have'} shape {tuple(found.shape)}: return {form}")
        if not torch.isfinite(found).all():
            raise UserError(f"the {self.name} of an image {'is' if one else 'are'} not finite: use a model trained for this kind of image")
        return found


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
