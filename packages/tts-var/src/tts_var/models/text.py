"""Text as Infinity sees it: features of the valid tokens, padded to the longest prompt of the batch."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tts_var.data.prompts import MAX_WORDS, VOCABULARY, words_of


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

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of a batch of prompts."""
        ...


class WordEncoder(nn.Module):
    """The small world's text encoder: word embeddings, positions, and transformer layers.

    Every prompt becomes `MAX_WORDS` tokens, of which those after its words are a learned padding that is attended to:
    the unconditional branch, which sees as many rows as the prompt has tokens, then does not tell its length.

    Args:
        width: feature width.
        num_layers: transformer layers; 0 for embeddings alone.
        num_heads: attention heads.
    """

    def __init__(self, width: int = 128, *, num_layers: int = 1, num_heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY) + 1, width)
        self.positions = nn.Parameter(torch.zeros(MAX_WORDS, width))
        nn.init.normal_(self.words.weight)
        nn.init.normal_(self.positions)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, num_heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
            for _ in range(num_layers)
        )

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of prompts of the small world.

        Raises:
            UserError: if a prompt has an unknown word, too many words or none.
        """
        features: TextFeatures = self(word_indices(prompts, device=self.positions.device, length=MAX_WORDS)[0])
        return features

    def forward(self, indices: Tensor) -> TextFeatures:
        """Features of word indices (batch, `MAX_WORDS`), 0 on padding."""
        values = self.words(indices) + self.positions
        for layer in self.layers:
            values = layer(values)
        return TextFeatures(values, torch.ones_like(indices, dtype=torch.bool))


_INDEX = {word: index for index, word in enumerate(VOCABULARY, start=1)}


def word_indices(prompts: Sequence[str], *, device: torch.device | str = "cpu", length: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices (batch, tokens) of the prompts' words, 0 on padding, and the mask of valid ones.

    Args:
        prompts: texts.
        device: where the tensors go.
        length: tokens to pad to; None for the longest prompt.
    """
    rows = [[_INDEX[word] for word in words_of(str(prompt))] for prompt in prompts]
    longest = length or max(len(row) for row in rows)
    indices = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    return indices, indices > 0
