"""Training of the binary spherical tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
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
        commitment: pull of the features towards their codes (0.25 in BSQ and VQ-VAE).
        entropy: weight of BSQ's entropy regulariser.
        entropy_temperature: its temperature.
        prefix_fraction: share of a batch that is decoded from the first scales only, so that the decoder knows
            unfinished pictures, which a search looks at.
        plain_fraction: share of a batch that is decoded without quantization at the first step; it falls linearly to
            0 over `plain_steps`, so that the auto-encoder has something to quantize before every code counts.
        plain_steps: optimizer steps until every picture is quantized.
    """

    commitment: float = 0.25
    entropy: float = 0.0
    entropy_temperature: float = 1.0
    prefix_fraction: float = 0.25
    plain_fraction: float = 0.5
    plain_steps: int = 800

    def __post_init__(self) -> None:
        for name in ("commitment", "entropy", "plain_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be 0 or more")
        if not 0 <= self.prefix_fraction + self.plain_fraction <= 1 or min(self.prefix_fraction, self.plain_fraction) < 0:
            raise UserError(
                f"loss.prefix_fraction is {self.prefix_fraction} and loss.plain_fraction {self.plain_fraction}: "
                "they must be 0 or more and at most 1 together"
            )
        if not self.entropy_temperature > 0:
            raise UserError(f"loss.entropy_temperature is {self.entropy_temperature}: it must be above 0")


class _Reconstruct(nn.Module):
    """The whole forward of the tokenizer in one module, so that a strategy can wrap it."""

    def __init__(self, tokenizer: BinaryTokenizer, scales: ScaleTable) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._grids = scales.latent_grids

    def forward(self, images: Tensor, plain: Tensor, unfinished: Tensor, prefix_scale: int) -> tuple[Tensor, Tensor, Tensor]:
        features = self.tokenizer.encode(images)
        quantized = quantize_bits(features.detach(), self._grids)
        latent = torch.where(unfinished[:, None, None, None], quantized.prefixes[prefix_scale], quantized.latent)
        latent = torch.where(plain[:, None, None, None], features.detach(), latent)
        # Straight through: the decoder sees codes, the encoder receives the decoder's gradient.
        straight = features + (latent - features).detach()
        return self.tokenizer.decoder(straight), features, quantized.latent


class TokenizerStage:
    """Reconstruction of pictures through the multi-scale binary quantizer.

    Args:
        tokenizer: what is trained.
        data: pictures.
        scales: the grids that the quantizer walks.
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
        """Squared error of the picture, commitment and entropy; `psnr` is the mean in dB of the pictures from all scales."""
        images = self._data.examples(indices).images
        mine = slice(first, first + len(indices))
        place = torch.arange(batch_size)
        remaining = max(0.0, 1 - step / max(1, self._loss.plain_steps))
        plain = place < int(self._loss.plain_fraction * remaining * batch_size)
        unfinished = place >= batch_size - int(self._loss.prefix_fraction * batch_size)
        stream = generator(self._seed, "prefix", step)
        prefix_scale = int(torch.randint(self._num_scales - 1, (), generator=stream))
        device = next(model.parameters()).device
        images = images.to(device)
        decoded, features, latent = model(images, plain[mine].to(device), unfinished[mine].to(device), prefix_scale)
        commitment = functional.mse_loss(features, latent.detach())
        loss = functional.mse_loss(decoded, images) + self._loss.commitment * commitment
        if self._loss.entropy:
            loss = loss + self._loss.entropy * bit_entropy_loss(features, temperature=self._loss.entropy_temperature)
        counted = ~(plain | unfinished)
        counted = counted if counted.any() else torch.ones_like(counted)
        errors = (decoded.detach().clamp(-1, 1) - images).square().mean((1, 2, 3))
        ratios = 10 * torch.log10(4 / errors[counted[mine].to(device)])
        # Ranks hold different numbers of such pictures, and their means are averaged as they are.
        psnr = ratios.sum() / counted.sum() * (batch_size / len(indices))
        return {"loss": loss, "commitment": commitment, "psnr": psnr}
