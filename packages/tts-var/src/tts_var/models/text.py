"""Text as Infinity sees it: features of the valid tokens, padded to the longest prompt of the batch."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor


class TextFeatures(NamedTuple):
    """Encoded prompts.

    Attributes:
        values: (batch, tokens, width), float32; anything on padding.
        mask: (batch, tokens), true on valid tokens.
    """

    values: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]


class TextEncoder(Protocol):
    """Contract of text encoders."""

    def check(self, prompts: Sequence[str]) -> None:
        """Refuses prompts that cannot be read, without encoding any.

        Raises:
            UserError: naming the first such prompt.
        """
        ...

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of a batch of prompts."""
        ...


class TrainableTextEncoder(TextEncoder, Protocol):
    """A text encoder that is trained together with a transformer; a module.

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
