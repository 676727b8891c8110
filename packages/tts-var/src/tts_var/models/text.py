"""Text features of Infinity, padded to the longest prompt of the batch, and the contracts of text encoders."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from triptych.errors import UserError


class TextFeatures(NamedTuple):
    """Encoded prompts.

    Attributes:
        values: (batch, tokens, width), float32; undefined on padding.
        mask: (batch, tokens), true on valid tokens.
    """

    values: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]

    def repeated(self, rows: int) -> "TextFeatures":
        """The features for `rows` prompts: a single row is repeated, otherwise there must be as many.

        Raises:
            UserError: if the number of rows is neither 1 nor `rows`.
        """
        if len(self.mask) not in (1, rows):
            raise UserError(f"there are {len(self.mask)} negative prompts for {rows} prompts: give one for all, or one each")
        return TextFeatures(self.values.expand(rows, -1, -1), self.mask.expand(rows, -1))

    def joined(self, other: "TextFeatures") -> "TextFeatures":
        """These rows followed by those of `other`, padded to the longer of both."""
        parts = (self, other)
        missing = [max(part.mask.shape[1] for part in parts) - part.mask.shape[1] for part in parts]
        return TextFeatures(
            torch.cat([functional.pad(part.values, (0, 0, 0, count)) for part, count in zip(parts, missing, strict=True)]),
            torch.cat([functional.pad(part.mask, (0, count)) for part, count in zip(parts, missing, strict=True)]),
        )


class TextEncoder(Protocol):
    """Contract of text encoders."""

    def check(self, prompts: Sequence[str]) -> None:
        """Validates prompts without encoding any of them.

        Raises:
            UserError: if a prompt cannot be encoded; names the first one.
        """
        ...

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of a batch of prompts."""
        ...


class TrainableTextEncoder(TextEncoder, Protocol):
    """Contract of text encoders that are trained together with a transformer; a module.

    Attributes:
        num_tokens: tokens of every prompt, padding included.
    """

    num_tokens: int

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Token ids on the CPU, padded to `num_tokens`."""
        ...

    def __call__(self, tokens: Int[Tensor, "batch tokens"]) -> TextFeatures:
        """Features of token ids, with gradient."""
        ...
