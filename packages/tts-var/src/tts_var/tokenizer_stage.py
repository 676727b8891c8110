"""Training of the binary spherical tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.seeding import generator
from tts_var.data.small_world import Examples
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.quantizers import bit_entropy_loss, quantize_bits
from tts_var.scales import ScaleTable


class Data(Protocol):
    """Captioned pictures by index."""

    num_examples: int

    def examples(self, indices: Sequence[int]) -> Examples:
        """The examples of the given indices."""
        ...


@dataclass
class TokenizerLossConfig:
    """Weights of the tokenizer's loss.

    Attributes:
        commitment: pull of the features towards their codes (0.25 in BSQ and VQ-VAE).
        entropy: weight of BSQ's entropy regulariser.
        entropy_temperature: its temperature.
        prefix_share: share of a batch that is decoded from the first scales only, so that the decoder knows
            unfinished pictures, which a search looks at.
        plain_share: share of a batch that is decoded without quantization at the first step; it falls linearly to
            0 over `plain_steps`, so that the auto-encoder has something to quantize before every code counts.
        plain_steps: optimizer steps until every picture is quantized.
    """

    commitment: float = 0.25
    entropy: float = 0.0
    entropy_temperature: float = 1.0
    prefix_share: float = 0.25
    plain_share: float = 0.5
    plain_steps: int = 800


class _Reconstruct(nn.Module):
    """The whole forward of the tokenizer in one module, so that a strategy can wrap it."""

    def __init__(self, tokenizer: BinaryTokenizer, scales: ScaleTable) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._grids = scales.latent_grids

    def forward(self, images: Tensor, plain_rows: int, prefix_rows: int, prefix_scale: int) -> tuple[Tensor, Tensor, Tensor]:
        features = self.tokenizer.encode(images)
        quantized = quantize_bits(features.detach(), self._grids)
        latent = quantized.latent
        if prefix_rows:
            latent = torch.cat((latent[:-prefix_rows], quantized.prefixes[prefix_scale][-prefix_rows:]))
        latent = torch.cat((features[:plain_rows].detach(), latent[plain_rows:]))
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

    def __init__(self, tokenizer: BinaryTokenizer, data: Data, scales: ScaleTable, loss: TokenizerLossConfig, *, seed: int) -> None:
        self.model: nn.Module = _Reconstruct(tokenizer, scales)
        self.num_examples = data.num_examples
        self._data = data
        self._loss = loss
        self._seed = seed
        self._num_scales = len(scales)

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int) -> Mapping[str, Tensor]:
        """Squared error of the picture, commitment and entropy; `psnr` in dB counts pictures from all scales."""
        images = self._data.examples(indices).images
        prefix_rows = int(self._loss.prefix_share * len(indices))
        remaining = max(0.0, 1 - step / max(1, self._loss.plain_steps))
        plain_rows = int(self._loss.plain_share * remaining * len(indices))
        stream = generator(self._seed, "prefix", step)
        prefix_scale = int(torch.randint(self._num_scales - 1, (), generator=stream))
        device = next(model.parameters()).device
        images = images.to(device)
        decoded, features, latent = model(images, plain_rows, prefix_rows, prefix_scale)
        commitment = functional.mse_loss(features, latent.detach())
        loss = functional.mse_loss(decoded, images) + self._loss.commitment * commitment
        if self._loss.entropy:
            loss = loss + self._loss.entropy * bit_entropy_loss(features, temperature=self._loss.entropy_temperature)
        whole = len(indices) - prefix_rows
        error = functional.mse_loss(decoded[plain_rows:whole].detach().clamp(-1, 1), images[plain_rows:whole])
        return {"loss": loss, "commitment": commitment, "psnr": 10 * torch.log10(4 / error)}
