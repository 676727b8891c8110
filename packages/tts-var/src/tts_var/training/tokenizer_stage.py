"""Training of the binary spherical tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data import CaptionedImages
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.quantizers import bit_entropy_loss, quantize_bits
from tts_var.numerics.scales import ScaleTable


@dataclass
class TokenizerLossConfig:
    """Weights of the tokenizer's loss.

    Attributes:
        commitment: weight of the squared distance of the features to their codes (0.25 in BSQ and VQ-VAE).
        entropy: weight of BSQ's entropy regulariser.
        entropy_temperature: temperature of the entropy regulariser.
        prefix_fraction: fraction of a batch that is decoded from the first scales only, which trains the decoder on
            the unfinished images that a search scores.
        plain_fraction: fraction of a batch that is decoded without quantization at the first step; it falls linearly to
            0 over `plain_steps`, so that the auto-encoder learns a latent space before every image is quantized.
        plain_steps: number of optimizer steps until every image is quantized.
        contrast: weight of the local contrast in the weights of the pixels, see `contrast_weights`; 0 weighs all equally.
    """

    commitment: float = 0.25
    entropy: float = 0.0
    entropy_temperature: float = 1.0
    prefix_fraction: float = 0.25
    plain_fraction: float = 0.5
    plain_steps: int = 800
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name in ("commitment", "entropy", "plain_steps", "contrast"):
            if getattr(self, name) < 0:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 <= self.prefix_fraction + self.plain_fraction <= 1 or min(self.prefix_fraction, self.plain_fraction) < 0:
            raise UserError(
                f"loss.prefix_fraction is {self.prefix_fraction} and loss.plain_fraction {self.plain_fraction}: "
                "each must be 0 or more and their sum at most 1"
            )
        if not self.entropy_temperature > 0:
            raise UserError(f"loss.entropy_temperature is {self.entropy_temperature}: it must be above 0")


def contrast_weights(images: Float[Tensor, "batch 3 height width"], strength: float) -> Float[Tensor, "batch 1 height width"]:
    """Weights of the pixels in the squared error: `1 + strength * c` with the local contrast c in [0, 1], scaled to a mean of 1.

    The contrast is the largest range of a channel in a window of 9 x 9 pixels, as a fraction of the whole range [-1, 1]. A small object on
    a plain background is a few percent of the pixels; without weights its outline is the last thing that an auto-encoder learns.
    """
    largest, smallest = (sign * functional.max_pool2d(sign * images, 9, stride=1, padding=4) for sign in (1, -1))
    weights = 1 + strength * (largest - smallest).amax(1, keepdim=True) / 2
    return weights / weights.mean()


class _Reconstruct(nn.Module):
    """Forward pass of the tokenizer with quantization in one module, so that a strategy wraps it."""

    def __init__(self, tokenizer: BinaryTokenizer, scales: ScaleTable) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._grids = scales.latent_grids

    def forward(self, images: Tensor, plain: Tensor, unfinished: Tensor, prefix_scale: int) -> tuple[Tensor, Tensor, Tensor]:
        # features and latents (batch, channels, rows, columns); per image: all scales, a prefix, or unquantized features.
        features = self.tokenizer.encode(images)
        quantized = quantize_bits(features.detach(), self._grids)
        latent = torch.where(unfinished[:, None, None, None], quantized.prefixes[prefix_scale], quantized.latent)
        latent = torch.where(plain[:, None, None, None], features.detach(), latent)
        # Straight-through estimator: the decoder's input is the codes, its gradient passes to the encoder unchanged.
        straight = features + (latent - features).detach()
        return self.tokenizer.decoder(straight), features, quantized.latent


class TokenizerStage:
    """Reconstruction of images through the multi-scale binary quantizer.

    Args:
        tokenizer: the tokenizer to train.
        data: training images; their captions are not used.
        scales: grids of the quantizer.
        loss: weights of the loss.
        seed: seed of the random prefixes.
    """

    def __init__(
        self, tokenizer: BinaryTokenizer, data: CaptionedImages, scales: ScaleTable, loss: TokenizerLossConfig, *, seed: int
    ) -> None:
        self.model: nn.Module = _Reconstruct(tokenizer, scales)
        self.num_examples = data.num_examples
        self._data = data
        self._loss = loss
        self._seed = seed
        self._num_scales = len(scales)

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Squared error of the image, commitment and entropy; `psnr` in dB is the mean over images decoded from all scales."""
        images = self._data.examples(indices).images
        own = slice(first, first + len(indices))
        # Masks (batch_size,) over the batch of all ranks: its first rows are unquantized, its last rows decode a prefix.
        index = torch.arange(batch_size)
        remaining = max(0.0, 1 - step / max(1, self._loss.plain_steps))
        plain = index < int(self._loss.plain_fraction * remaining * batch_size)
        unfinished = index >= batch_size - int(self._loss.prefix_fraction * batch_size)
        stream = generator(self._seed, "prefix", step)
        prefix_scale = int(torch.randint(self._num_scales - 1, (), generator=stream))
        device = next(model.parameters()).device
        images = images.to(device)
        decoded, features, latent = model(images, plain[own].to(device), unfinished[own].to(device), prefix_scale)
        commitment = functional.mse_loss(features, latent.detach())
        squared = (decoded - images).square()
        if self._loss.contrast:
            squared = squared * contrast_weights(images, self._loss.contrast)
        loss = squared.mean() + self._loss.commitment * commitment
        if self._loss.entropy:
            loss = loss + self._loss.entropy * bit_entropy_loss(features, temperature=self._loss.entropy_temperature)
        counted = ~(plain | unfinished)
        counted = counted if counted.any() else torch.ones_like(counted)
        errors = (decoded.detach().clamp(-1, 1) - images).square().mean((1, 2, 3))
        ratios = 10 * torch.log10(4 / errors[counted[own].to(device)])
        # Ranks have different numbers of such images but their metrics are averaged with equal weight: the factor corrects for it.
        psnr = ratios.sum() / counted.sum() * (batch_size / len(indices))
        return {"loss": loss, "commitment": commitment, "psnr": psnr}
