"""The caption encoder of tiny cinema: an embedding for every value of every caption field."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from captain_cinema.toy.captions import CAPTION_FIELDS, VOCABULARY_SIZES, caption_indices, parse_caption

# Embeddings of fields with the same token are summed: a name with its description, a place with its description.
_TOKEN_OF_FIELD = {
    "name": 0, "colour": 0, "shape": 0, "hat": 0, "badge": 0, "place": 1, "wall": 1, "ground": 1, "decoration": 1,
    "size": 2, "position": 3, "prop": 4, "action": 5,
}  # fmt: skip


class TinyCaptionEncoder(nn.Module):
    """Learned embeddings of caption fields, a fixed number of tokens per caption.

    Args:
        width: channels of a token.
        says_action: whether the action is encoded, as a sixth token.
    """

    def __init__(self, width: int, *, says_action: bool) -> None:
        super().__init__()
        self.num_tokens = 6 if says_action else 5
        self.embeddings = nn.ModuleDict(
            {
                field: nn.Embedding(size, width)
                for field, size in zip(CAPTION_FIELDS, VOCABULARY_SIZES, strict=True)
                if _TOKEN_OF_FIELD[field] < self.num_tokens
            }
        )
        for embedding in self.embeddings.values():
            assert isinstance(embedding, nn.Embedding)
            nn.init.normal_(embedding.weight, std=0.5)

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "captions fields"]:
        """Field values as indices, see `caption_indices` and `CaptionEncoder`."""
        return caption_indices([parse_caption(caption) for caption in captions])

    def forward(self, indices: Int[Tensor, "*rest fields"]) -> Float[Tensor, "*rest tokens width"]:
        """Tokens of field values from `caption_indices`."""
        tokens: list[Tensor | None] = [None] * self.num_tokens
        for field, embedding in self.embeddings.items():
            token, column = _TOKEN_OF_FIELD[field], CAPTION_FIELDS.index(field)
            value = embedding(indices[..., column])
            # Name and place open their token; unset fields of a description (index 0) add nothing to it.
            total = tokens[token]
            tokens[token] = value if total is None else total + value * (indices[..., column, None] > 0)
        return torch.stack([token for token in tokens if token is not None], dim=-2)
