"""Pretrained CLIP models through open_clip: the architecture by name, the weights from a local file."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from triptych.checkpoint.weights import fill_strictly
from triptych.errors import UserError
from tts_var.models.loading import read_weights
from tts_var.scorers.clip import ClipFeatures, ClipReward


class OpenClipModel(nn.Module):
    """An open_clip model with the interface of `ImageTextModel`.

    Args:
        architecture: name in open_clip's list, such as `ViT-B-32`.
        weights: a safetensors or torch file of that architecture, loaded with `weights_only`.
        device: device of the model.

    Raises:
        UserError: if the architecture is unknown, or the weights are missing or do not fit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, architecture: str, weights: str | Path, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        if architecture not in open_clip.list_models():
            raise UserError(f"architecture is '{architecture}': choose one of open_clip's, such as ViT-B-32 or ViT-L-14")
        state = read_weights(weights)
        self.clip = open_clip.create_model(architecture, pretrained=None, load_weights=False)
        fill_strictly(self.clip, state, str(weights))
        self.clip.visual.output_tokens = True
        self.clip.eval().to(device)
        self._tokenize = open_clip.get_tokenizer(architecture)
        size = self.clip.visual.image_size
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        for name, values in (("mean", open_clip.OPENAI_DATASET_MEAN), ("deviation", open_clip.OPENAI_DATASET_STD)):
            self.register_buffer(name, torch.tensor(values, device=device).view(3, 1, 1), persistent=False)

    @property
    def flops_per_image(self) -> float:
        """Operations of a vision transformer for one image, from its parameters and tokens; a multiply-add counts as two."""
        height, width = self.image_size
        patch = self.clip.visual.patch_size
        tokens = (height // patch[0]) * (width // patch[1]) + 1
        return 2.0 * tokens * sum(parameter.numel() for parameter in self.clip.visual.transformer.parameters())

    def embed_images(self, images: Float[Tensor, "rows 3 height width"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings and patch tokens of images in [0, 1], which are moved to the model's device, resized and normalised."""
        images = images.to(self.mean.device)
        resized = functional.interpolate(images, self.image_size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        pooled, tokens = self.clip.visual((resized - self.mean) / self.deviation)
        return functional.normalize(pooled, dim=-1), tokens

    def embed_texts(self, prompts: Sequence[str]) -> Float[Tensor, "rows width"]:
        """Unit embeddings of prompts; prompts longer than the context length are truncated."""
        ids = self._tokenize(list(prompts)).to(self.mean.device)
        embeddings: Tensor = self.clip.encode_text(ids, normalize=True)
        return embeddings

    def forward(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings, text embeddings and the scale of their products."""
        return self.embed_images(images)[0], self.embed_texts(prompts), self.clip.logit_scale.exp()


def open_clip_reward(*, architecture: str, weights: str, device: torch.device | str = "cpu") -> ClipReward:
    """Similarity of image and prompt under a pretrained CLIP; see `OpenClipModel`."""
    model = OpenClipModel(architecture, weights, device=device)
    return ClipReward(model, image_size=max(model.image_size))


def open_clip_features(*, architecture: str, weights: str, device: torch.device | str = "cpu") -> ClipFeatures:
    """Patch tokens of a pretrained CLIP; see `OpenClipModel`."""
    model = OpenClipModel(architecture, weights, device=device)
    return ClipFeatures(model, image_size=max(model.image_size))
