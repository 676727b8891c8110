"""The small world's CLIP for images of 64 x 64 pixels and its vocabulary."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from tts_var.models.clip import Clip, ClipConfig
from tts_var.toy.prompts import MAX_WORDS, VOCABULARY
from tts_var.toy.rendering import IMAGE_SIZE
from tts_var.toy.text import word_indices

# The text embedding is the feature at the largest token id: the end marker therefore has the largest id.
_END = len(VOCABULARY) + 1


class SmallClip(nn.Module):
    """CLIP with an image tower for 64 x 64 pixels and a text tower for the small world's words.

    Args:
        embedding_width: width of the shared space.
        vision_width: channels of the image tower.
        vision_layers: layers of the image tower.
        patch_size: pixels per patch side.
        text_width: channels of the text tower.
        text_layers: layers of the text tower.
        head_width: channels per attention head, in both towers.
    """

    def __init__(
        self,
        *,
        embedding_width: int = 64,
        vision_width: int = 96,
        vision_layers: int = 4,
        patch_size: int = 8,
        text_width: int = 96,
        text_layers: int = 2,
        head_width: int = 32,
    ) -> None:
        super().__init__()
        self.clip = Clip(
            ClipConfig(
                embedding_width=embedding_width,
                image_size=IMAGE_SIZE,
                patch_size=patch_size,
                vision_width=vision_width,
                vision_layers=vision_layers,
                context_length=MAX_WORDS + 1,
                vocabulary_size=_END + 1,
                text_width=text_width,
                text_layers=text_layers,
                head_width=head_width,
            )
        )

    @property
    def flops_per_image(self) -> float:
        """Floating-point operations of the image tower per image; a multiply-add counts as two."""
        return self.clip.flops_per_image

    def embed_images(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings (rows, width) and patch tokens (rows, patches, channels) of images in [0, 1]."""
        return self.clip.encode_image(images.to(self.clip.positional_embedding.device) * 2 - 1)

    def embed_texts(self, prompts: Sequence[str]) -> Float[Tensor, "rows width"]:
        """Unit embeddings of prompts.

        Raises:
            UserError: if a prompt has a word outside the vocabulary, too many words or none.
        """
        indices, mask = word_indices(prompts, device=self.clip.positional_embedding.device, length=MAX_WORDS + 1)
        # The first padding position of each row (rows, MAX_WORDS + 1) becomes the end marker.
        ends = mask.sum(1, keepdim=True)
        return self.clip.encode_text(indices.scatter(1, ends, _END))

    def forward(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings, text embeddings and the logit scale."""
        return self.embed_images(images)[0], self.embed_texts(prompts), self.clip.logit_scale.exp()
