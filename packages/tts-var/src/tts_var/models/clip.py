"""CLIP: an image tower and a text tower with a shared embedding space and the parameter names of open_clip.

Shapes are suffixed: B batch, N tokens, C width.

Source: arXiv 2103.00020.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError


class ImageTextModel(Protocol):
    """Contract of models that embed images and prompts into one space; a module."""

    @property
    def flops_per_image(self) -> float:
        """Floating-point operations per image; a multiply-add counts as two."""
        ...

    def embed_images(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings (rows, width) and patch tokens (rows, patches, channels) of images in [0, 1] on any device."""
        ...

    def embed_texts(self, prompts: Sequence[str]) -> Float[Tensor, "rows width"]:
        """Unit embeddings of prompts."""
        ...

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings, text embeddings and the scale of their products, with gradient."""
        ...


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of both towers.

    Attributes:
        embedding_width: width of the shared space.
        image_size: pixels per side of an image.
        patch_size: pixels per side of a patch.
        vision_width: channels of the image tower.
        vision_layers: layers of the image tower.
        context_length: tokens of a text.
        vocabulary_size: number of token ids.
        text_width: channels of the text tower.
        text_layers: layers of the text tower.
        head_width: channels per attention head, in both towers.

    Raises:
        UserError: if a width is not a multiple of the head width, or the image size not one of the patch size.
    """

    embedding_width: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    context_length: int
    vocabulary_size: int
    text_width: int
    text_layers: int
    head_width: int = 64

    def __post_init__(self) -> None:
        for name in ("vision_width", "text_width"):
            if self.head_width < 1 or getattr(self, name) % self.head_width:
                raise UserError(
                    f"{name} is {getattr(self, name)} with heads of {self.head_width} channels: make it a multiple of head_width"
                )
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise UserError(f"image_size is {self.image_size} with patches of {self.patch_size} pixels: make it a multiple of patch_size")


class _Block(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential()
        for name, layer in layers.items():
            self.mlp.add_module(name, layer)

    def forward(self, x_BNC: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x_BNC)
        x_BNC = x_BNC + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        result: Tensor = x_BNC + self.mlp(self.ln_2(x_BNC))
        return result


class _Transformer(nn.Module):
    def __init__(self, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, num_heads) for _ in range(num_layers))

    def forward(self, x_BNC: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x_BNC = block(x_BNC, mask)
        return x_BNC


class VisionTower(nn.Module):
    """Image tower: a transformer over patch tokens and a class token."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn((config.image_size // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, config.vision_layers, width // config.head_width)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, config.embedding_width))

    def forward(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Projected class token (rows, embedding) and patch tokens (rows, patches, width) of normalised images."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        summary = self.class_embedding.expand(len(patches), 1, -1)
        x_BNC = self.ln_pre(torch.cat((summary, patches), dim=1) + self.positional_embedding)
        x_BNC = self.ln_post(self.transformer(x_BNC))
        return x_BNC[:, 0] @ self.proj, x_BNC[:, 1:]


class Clip(nn.Module):
    """Both towers; the text embedding is the feature at the largest token id, which is the end marker.

    Args:
        config: sizes.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.visual = VisionTower(config)
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = _Transformer(width, config.text_layers, width // config.head_width)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embedding_width))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self._reset_text_tower()

    @property
    def flops_per_image(self) -> float:
        """Operations of the image tower for one image; a multiply-add counts as two."""
        width, patch = self.config.vision_width, self.config.patch_size
        tokens = (self.config.image_size // patch) ** 2 + 1
        return 2.0 * tokens * (self.config.vision_layers * (12 * width**2 + 2 * width * tokens) + 3 * patch**2 * width)

    def encode_image(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings (rows, embedding) and patch tokens (rows, patches, width) of normalised images."""
        pooled, tokens = self.visual(images)
        return functional.normalize(pooled, dim=-1), tokens

    def encode_text(self, ids: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows embedding"]:
        """Unit embeddings of token ids."""
        length = ids.shape[1]
        # Causal mask: tokens after the end marker are padding, to which the end marker must not attend.
        mask = torch.full((length, length), -torch.inf, device=ids.device).triu(1)
        x_BNC = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, mask))
        pooled = x_BNC[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        return functional.normalize(pooled @ self.text_projection, dim=-1)

    def _reset_text_tower(self) -> None:
        """Normals of standard deviations that shrink with width and depth, as in the released training code of CLIP."""
        width, depth = self.config.text_width, self.config.text_layers
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in self.transformer.resblocks:
            assert isinstance(block, _Block)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
            for name, deviation in (("c_fc", (2 * width) ** -0.5), ("c_proj", width**-0.5 * (2 * depth) ** -0.5)):
                layer = block.mlp.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                nn.init.normal_(layer.weight, std=deviation)
        nn.init.normal_(self.text_projection, std=width**-0.5)


def similarity(images: Float[Tensor, "rows width"], texts: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
    """Cosine of matching rows of unit embeddings."""
    return (images * texts).sum(-1)
