"""Word indices and text encoder of the small world."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tts_var.models.text import TextFeatures
from tts_var.toy.prompts import MAX_WORDS, VOCABULARY, words_of


class WordEncoder(nn.Module):
    """The small world's text encoder: word embeddings, positions, and transformer layers.

    Every prompt is padded to `MAX_WORDS` tokens with a learned padding embedding that is not masked: the unconditional
    branch has the mask of the prompt, which would otherwise leak the prompt's length.

    Args:
        width: feature width.
        num_layers: transformer layers; 0 for embeddings alone.
        num_heads: attention heads.
    """

    num_tokens = MAX_WORDS

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

    def check(self, prompts: Sequence[str]) -> None:
        """Validates prompts; see `TextEncoder.check`.

        Raises:
            UserError: if a prompt has an unknown word, too many words or none.
        """
        for prompt in prompts:
            words_of(str(prompt))

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Word indices, 0 on padding; see `TrainableTextEncoder.tokenize`.

        Raises:
            UserError: if a prompt has an unknown word, too many words or none.
        """
        return word_indices(prompts, length=MAX_WORDS)[0]

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of prompts of the small world.

        Raises:
            UserError: if a prompt has an unknown word, too many words or none.
        """
        features: TextFeatures = self(self.tokenize(prompts).to(self.positions.device))
        return features

    def forward(self, indices: Tensor) -> TextFeatures:
        """Features of word indices (batch, `MAX_WORDS`), 0 on padding."""
        values = self.words(indices) + self.positions
        for layer in self.layers:
            values = layer(values)
        return TextFeatures(values, torch.ones_like(indices, dtype=torch.bool))


_INDEX = {word: index for index, word in enumerate(VOCABULARY, start=1)}


def word_indices(prompts: Sequence[str], *, device: torch.device | str = "cpu", length: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices (batch, tokens) of the prompts' words, 0 on padding, and the mask of valid tokens.

    Args:
        prompts: texts.
        device: device of the tensors.
        length: number of tokens after padding; None for that of the longest prompt.
    """
    rows = [[_INDEX[word] for word in words_of(str(prompt))] for prompt in prompts]
    longest = length or max(len(row) for row in rows)
    indices = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    return indices, indices > 0
