"""Text features of Infinity, padded to the longest prompt of the batch, and the contracts of text encoders."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor


class TextFeatures(NamedTuple):
    """Encoded prompts.

    Attributes:
        values: (batch, tokens, width), float32; undefined on padding.
        mask: (batch, tokens), true on valid tokens.
    """

    values: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]


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
