"""The encoder of tiny cinema's captions: an embedding for everything that a caption may say."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from captain_cinema.toy.captions import CAPTION_FIELDS, VOCABULARY_SIZES, caption_indices, parse_caption

# Words of one token are added up: a name with what is said of its looks, a place likewise.
_TOKEN_OF_FIELD = {
    "name": 0, "colour": 0, "shape": 0, "hat": 0, "badge": 0, "place": 1, "wall": 1, "ground": 1, "decoration": 1,
    "size": 2, "position": 3, "prop": 4, "action": 5,
}  # fmt: skip


class TinyCaptionEncoder(nn.Module):
    """Embeddings of what captions say, a fixed number of tokens each."""

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
        """What captions of tiny cinema say, as indices; see `CaptionEncoder`."""
        return caption_indices([parse_caption(caption) for caption in captions])

    def forward(self, indices: Int[Tensor, "*rest fields"]) -> Float[Tensor, "*rest tokens width"]:
        """Tokens of captions given by `caption_indices`."""
        tokens: list[Tensor | None] = [None] * self.num_tokens
        for field, embedding in self.embeddings.items():
            place, index = _TOKEN_OF_FIELD[field], CAPTION_FIELDS.index(field)
            value = embedding(indices[..., index])
            # What is left unsaid adds nothing to what is said beside it.
            known = tokens[place]
            tokens[place] = value if known is None else known + value * (indices[..., index, None] > 0)
        return torch.stack([token for token in tokens if token is not None], dim=-2)
