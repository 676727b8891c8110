"""Multi-scale residual quantizers: binary spherical (Infinity) and vector (VAR)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from tts_var.numerics.scales import Grid


class MultiScaleBits(NamedTuple):
    """Result of multi-scale binary quantization.

    Attributes:
        bits: uint8 of shape (batch, height_i, width_i, channels), one per scale.
        latent: the sum of all upsampled codes, float of shape (batch, channels, height, width).
        prefixes: the running sum after each scale except the last, same shape as `latent`.
    """

    bits: list[Tensor]
    latent: Tensor
    prefixes: list[Tensor]


def codes_from_bits(bits: UInt8[Tensor, "*rest channels"]) -> Float[Tensor, "*rest channels"]:
    """Binary spherical codes on the unit sphere: `(2 b - 1) / sqrt(channels)`, float32.

    Source: Infinity (arXiv 2412.04431), section 3.2, after BSQ (arXiv 2406.07548).
    """
    return (2.0 * bits.float() - 1.0) / bits.shape[-1] ** 0.5


def bits_to_integers(bits: UInt8[Tensor, "*rest channels"]) -> Int[Tensor, "*rest"]:
    """Integer labels, most significant bit first, int64.

    Raises:
        UserError: if there are more than 62 channels, which would overflow int64.
    """
    channels = bits.shape[-1]
    if channels > 62:
        raise UserError(f"there are {channels} channels but labels have at most 62 bits: keep the bits")
    powers = 2 ** torch.arange(channels - 1, -1, -1, device=bits.device)
    return (bits.long() * powers).sum(-1)


def integers_to_bits(labels: Int[Tensor, "*rest"], channels: int) -> UInt8[Tensor, "*rest channels"]:
    """The inverse of `bits_to_integers`."""
    shifts = torch.arange(channels - 1, -1, -1, device=labels.device)
    return ((labels[..., None] >> shifts) & 1).to(torch.uint8)


def resize(latent: Float[Tensor, "batch channels rows columns"], grid: Grid) -> Float[Tensor, "batch channels height width"]:
    """Bilinear resize without antialiasing, up and down, as between Infinity's scales."""
    if tuple(latent.shape[-2:]) == tuple(grid):
        return latent
    return functional.interpolate(latent, size=grid, mode="bilinear", align_corners=False)


def pool(latent: Float[Tensor, "batch channels rows columns"], grid: Grid) -> Float[Tensor, "batch channels height width"]:
    """Area resize, as applied to residuals before they are quantized."""
    if tuple(latent.shape[-2:]) == tuple(grid):
        return latent
    return functional.adaptive_avg_pool2d(latent, grid)


def add_scale(latent: Float[Tensor, "batch channels height width"], bits: UInt8[Tensor, "batch rows columns channels"]) -> Tensor:
    """The running sum plus the codes of one more scale, upsampled to the full grid."""
    return latent + resize(codes_from_bits(bits).permute(0, 3, 1, 2), (latent.shape[-2], latent.shape[-1]))


def quantize_bits(
    features: Float[Tensor, "batch channels height width"],
    grids: Sequence[Grid],
    flip: Callable[[int, Tensor], Tensor] | None = None,
) -> MultiScaleBits:
    """Residual binary quantization over all scales.

    Iterates over the scales with the running sum `acc`: the residual `features - acc` is area-resized to the scale (not at the
    last), its signs are the bits (0 gives bit 0), and the upsampled codes are added to `acc`. With `flip` this is Infinity's
    bitwise self-correction: the flipped bits are added to `acc` while the unflipped bits are returned, so that the
    targets of later scales correct the error.

    Source: Infinity (arXiv 2412.04431), section 3.2 and algorithms 1 and 2.

    Args:
        features: encoder output.
        grids: latent (height, width) of each scale.
        flip: maps the scale and its bits to the bits that are added; None for no perturbation.
    """
    latent = torch.zeros_like(features)
    bits, prefixes = [], []
    for scale, grid in enumerate(grids):
        # Residual (batch, channels, h_i, w_i); its signs, channels last, are the bits (batch, h_i, w_i, channels).
        target = (pool(features - latent, grid) > 0).permute(0, 2, 3, 1).to(torch.uint8)
        bits.append(target)
        latent = add_scale(latent, target if flip is None else flip(scale, target))
        if scale < len(grids) - 1:
            prefixes.append(latent)
    return MultiScaleBits(bits=bits, latent=latent, prefixes=prefixes)


class RandomFlips:
    """Noise of bitwise self-correction: one flip probability per scale for the whole batch, then independent flips.

    The probability is uniform over {0, .01, .., strength}; the first `num_scales` scales are perturbed.

    Source: Infinity (arXiv 2412.04431), algorithm 2; strength 0.3 over 13 scales in the 2B recipe.

    Args:
        strength: the largest probability.
        num_scales: scales that are perturbed.
        generator: the random stream, the same on all ranks.
        first: index of the first row in the batch of all ranks.
        batch_size: rows of the batch of all ranks; None if `bits` is the whole batch.
    """

    def __init__(
        self, *, strength: float, num_scales: int, generator: torch.Generator, first: int = 0, batch_size: int | None = None
    ) -> None:
        if not 0 <= strength <= 0.5:
            raise UserError(f"flip strength is {strength}: it must be between 0 and 0.5")
        self._levels = round(100 * strength) + 1
        self._num_scales = num_scales
        self._generator = generator
        self._first = first
        self._batch_size = batch_size

    def __call__(self, scale: int, bits: Tensor) -> Tensor:
        """The bits of `scale` with some of them flipped."""
        if scale >= self._num_scales:
            return bits
        probability = int(torch.randint(self._levels, (), generator=self._generator)) / 100
        # Noise for the rows of all ranks, then this rank's slice: flips do not depend on the number of ranks.
        uniform = torch.rand(self._batch_size or len(bits), *bits.shape[1:], generator=self._generator)
        flips = uniform[self._first : self._first + len(bits)] < probability
        return bits ^ flips.to(bits)


def bit_entropy_loss(features: Float[Tensor, "batch channels height width"], *, temperature: float) -> Float[Tensor, ""]:
    """BSQ's entropy regulariser: entropy per cell (minimised) minus entropy of the mean (maximised), in nats per bit.

    `p = sigmoid(4 u temperature / sqrt(channels))` for each channel of the unit vector u.

    Source: BSQ (arXiv 2406.07548), equations 7 to 9.
    """
    unit = functional.normalize(features, dim=1)
    logits = 4.0 * temperature / features.shape[1] ** 0.5 * unit
    per_cell = _binary_entropy(torch.sigmoid(logits)).mean()
    of_mean = _binary_entropy(torch.sigmoid(logits).mean(dim=(0, 2, 3))).mean()
    return per_cell - of_mean


def _binary_entropy(probability: Tensor) -> Tensor:
    safe = probability.clamp(1e-6, 1 - 1e-6)
    return -(safe * safe.log() + (1 - safe) * (1 - safe).log())


class MultiScaleIndices(NamedTuple):
    """Result of multi-scale vector quantization.

    Attributes:
        indices: int64 of shape (batch, height_i * width_i), one per scale.
        prefixes: the running sum after each scale (the last is the quantized latent), (batch, channels, height, width).
    """

    indices: list[Tensor]
    prefixes: list[Tensor]


class ResidualConvolution(nn.Conv2d):
    """`phi(h) = (1 - ratio) h + ratio conv(h)`, which restores detail after bicubic upsampling.

    Source: VAR (arXiv 2404.02905), algorithm 1.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)
        self.ratio = ratio

    def forward(self, latent: Tensor) -> Tensor:
        """Applies phi to (batch, channels, height, width)."""
        return (1.0 - self.ratio) * latent + self.ratio * super().forward(latent)


class VectorQuantizer(nn.Module):
    """VAR's multi-scale residual quantizer: one codebook for all scales, K partially shared convolutions.

    Scale i of S uses the convolution whose tick is nearest to i / (S - 1).

    Source: VAR (arXiv 2404.02905), section 3.2 and algorithms 1 and 2.

    Args:
        num_codes: rows of the codebook.
        channels: width of a code.
        num_convolutions: K; 1 shares one convolution, 0 gives every scale its own.
        ratio: weight of the convolution in phi.
        num_scales: number of convolutions if `num_convolutions` is 0.
        cosine: looks up the code of largest cosine similarity instead of the nearest one.
    """

    def __init__(
        self,
        num_codes: int,
        channels: int,
        *,
        num_convolutions: int = 4,
        ratio: float = 0.5,
        num_scales: int = 10,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.embedding = nn.Embedding(num_codes, channels)
        self._one_each = num_convolutions == 0
        self.convolutions = nn.ModuleList(ResidualConvolution(channels, ratio) for _ in range(num_convolutions or num_scales))

    def convolution(self, scale: int, num_scales: int) -> nn.Module:
        """The convolution of a scale."""
        count = len(self.convolutions)
        if self._one_each:
            return self.convolutions[scale]
        # Four ticks are spaced as in the released code, other numbers of ticks at the centres of equal intervals.
        ticks = (
            torch.linspace(1 / 12, 11 / 12, 4, dtype=torch.float64).tolist()
            if count == 4
            else [(2 * j + 1) / (2 * count) for j in range(count)]
        )
        position = scale / max(1, num_scales - 1)
        return self.convolutions[min(range(count), key=lambda j: abs(ticks[j] - position))]

    def contribution(self, indices: Int[Tensor, "batch tokens"], scale: int, grids: Sequence[Grid]) -> Tensor:
        """Contribution of one scale's codes to the running sum, (batch, channels, height, width) of the last grid."""
        return self.contribution_of_codes(self.embedding(indices), scale, grids)

    def contribution_of_codes(self, codes: Float[Tensor, "batch tokens channels"], scale: int, grids: Sequence[Grid]) -> Tensor:
        """Contribution of code vectors, or of mixtures of them, to the running sum."""
        codes_2d = codes.transpose(1, 2).unflatten(2, grids[scale])
        if scale < len(grids) - 1:
            codes_2d = functional.interpolate(codes_2d, size=grids[-1], mode="bicubic")
        result: Tensor = self.convolution(scale, len(grids))(codes_2d)
        return result

    def quantize(self, features: Float[Tensor, "batch channels height width"], grids: Sequence[Grid]) -> MultiScaleIndices:
        """Indices of all scales and the running sums."""
        latent = torch.zeros_like(features)
        indices, prefixes = [], []
        for scale, grid in enumerate(grids):
            cells = pool(features - latent, grid).flatten(2).transpose(1, 2)
            indices.append(self._lookup(cells))
            latent = latent + self.contribution(indices[-1], scale, grids)
            prefixes.append(latent)
        return MultiScaleIndices(indices=indices, prefixes=prefixes)

    def _lookup(self, cells: Float[Tensor, "batch tokens channels"]) -> Int[Tensor, "batch tokens"]:
        codes = self.embedding.weight
        if self.cosine:
            return (functional.normalize(cells, dim=-1) @ functional.normalize(codes, dim=-1).T).argmax(-1)
        # |cell - code|^2 expanded, so that distances (batch, tokens, codes) are one product.
        return (cells.square().sum(-1, keepdim=True) - 2 * cells @ codes.T + codes.square().sum(-1)).argmin(-1)
