"""A small CLIP of the small world, built from open_clip's architecture classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tts_var.data.drawing import IMAGE_SIZE
from tts_var.data.prompts import MAX_WORDS, VOCABULARY
from tts_var.models.open_clip_classes import CLIP, CLIPTextCfg, CLIPVisionCfg
from tts_var.models.text import word_indices

# The text tower reads its summary at the largest index, which is therefore the end marker's.
_END = len(VOCABULARY) + 1


@dataclass
class ClipConfig:
    """Sizes of the small world's CLIP.

    Attributes:
        embedding_width: width of the shared space.
        vision_width: channels of the image tower.
        vision_layers: its layers.
        patch_size: pixels per patch side.
        text_width: channels of the text tower.
        text_layers: its layers.
        head_width: channels per attention head, in both towers.
    """

    embedding_width: int = 64
    vision_width: int = 96
    vision_layers: int = 4
    patch_size: int = 8
    text_width: int = 96
    text_layers: int = 2
    head_width: int = 32

    def build(self) -> "SmallClip":
        """A model with the weights that open_clip gives it."""
        return SmallClip(self)


class SmallClip(nn.Module):
    """Image and text towers over pictures of 64 x 64 pixels and the small world's words."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.clip = CLIP(
            embed_dim=config.embedding_width,
            vision_cfg=CLIPVisionCfg(
                layers=config.vision_layers,
                width=config.vision_width,
                head_width=config.head_width,
                patch_size=config.patch_size,
                image_size=IMAGE_SIZE,
                output_tokens=True,
            ),
            text_cfg=CLIPTextCfg(
                context_length=MAX_WORDS + 1,
                vocab_size=_END + 1,
                width=config.text_width,
                heads=config.text_width // config.head_width,
                layers=config.text_layers,
            ),
        )

    @property
    def flops_per_image(self) -> float:
        """Operations of the image tower for one picture; a multiply-add counts as two."""
        width, tokens = self.config.vision_width, (IMAGE_SIZE // self.config.patch_size) ** 2 + 1
        return 2.0 * tokens * (self.config.vision_layers * (12 * width**2 + 2 * width * tokens) + 3 * self.config.patch_size**2 * width)

    def embed_images(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings (rows, width) and patch tokens (rows, patches, channels) of pictures in [0, 1]."""
        pooled, tokens = self.clip.visual(images * 2 - 1)
        return functional.normalize(pooled, dim=-1), tokens

    def embed_texts(self, prompts: Sequence[str]) -> Float[Tensor, "rows width"]:
        """Unit embeddings of prompts.

        Raises:
            UserError: if a prompt has a word that the small world does not know.
        """
        indices, mask = word_indices(prompts, device=self.clip.positional_embedding.device, length=MAX_WORDS + 1)
        ends = mask.sum(1, keepdim=True)
        return self.clip.encode_text(indices.scatter(1, ends, _END), normalize=True)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings, text embeddings and the logit scale."""
        return self.embed_images(images)[0], self.embed_texts(prompts), self.clip.logit_scale.exp()


def similarity(images: Float[Tensor, "rows width"], texts: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
    """Cosine of matching rows of unit embeddings."""
    return (images * texts).sum(-1)
