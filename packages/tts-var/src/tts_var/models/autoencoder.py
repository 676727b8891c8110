"""Convolutional auto-encoders of both families, and the tokenizers built from them and a quantizer.

The same classes serve Infinity's tokenizers (d16 to d64 at stride 16, d14 at stride 8), VAR's, and the small world's;
parameter names are VAR's, and `models/loading.py` maps the other names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from tts_var.models.quantizers import VectorQuantizer


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of a convolutional auto-encoder.

    Attributes:
        latent_channels: channels between encoder and decoder.
        base_channels: channels at full resolution.
        multipliers: channels of each level in units of `base_channels`; every level but the last halves the
            resolution, so the stride is `2 ** (levels - 1)`.
        blocks_per_level: residual blocks of an encoder level; a decoder level has one more block.
        attention: single-head attention at the deepest level (VAR); Infinity has none.
        norm_groups: groups of every group norm; None for the released rule, which is 32, or 24 where 32 does not
            divide the channels. Narrow models need fewer groups: with one channel per group the norm removes the
            mean of every channel, and with it brightness and colour.
    """

    latent_channels: int
    base_channels: int = 128
    multipliers: Sequence[int] = (1, 2, 4, 4, 4)
    blocks_per_level: int = 2
    attention: bool = False
    norm_groups: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))  # a list if read from a config file

    @property
    def stride(self) -> int:
        """Pixels per latent cell side."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * multiplier for multiplier in self.multipliers)


INFINITY_TOKENIZERS = {
    **{f"d{bits}": AutoencoderConfig(latent_channels=bits) for bits in (16, 24, 32, 64)},
    "d56_patchify": AutoencoderConfig(latent_channels=14, multipliers=(1, 2, 4, 4)),
}
VAR_TOKENIZER = AutoencoderConfig(latent_channels=32, base_channels=160, multipliers=(1, 1, 2, 2, 4), attention=True)


def _norm(channels: int, norm_groups: int | None) -> nn.GroupNorm:
    groups = norm_groups or (32 if channels % 32 == 0 else 24)
    if channels % groups:
        raise UserError(
            f"a level has {channels} channels, not divisible by the {groups} groups of its group norm: change base_channels or norm_groups"
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Residual block: two times norm, SiLU and convolution, plus a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, norm_groups: int | None) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in, norm_groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out, norm_groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, height, width) to (batch, channels_out, height, width)."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        result: Tensor = self.nin_shortcut(x) + hidden
        return result


class AttentionBlock(nn.Module):
    """Single-head self-attention over all cells, plus a skip connection."""

    def __init__(self, channels: int, norm_groups: int | None) -> None:
        super().__init__()
        self.norm = _norm(channels, norm_groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), unchanged in shape."""
        # Cells are tokens: (batch, 3 * channels, height, width) -> three of (batch, height * width, channels); `[:, None]` is the one head.
        query, key, value = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        result: Tensor = x + self.proj_out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))
        return result


class Downsample(nn.Module):
    """Stride-2 convolution over an input padded by one zero at the right and the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halves height and width."""
        result: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return result


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Doubles height and width."""
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class _Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if enabled, then a change of resolution."""

    def __init__(self, widths: Sequence[int], *, attention: bool, norm_groups: int | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(before, after, norm_groups) for before, after in pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(width, norm_groups) for width in widths[1:] if attention)
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        result: Tensor = self.upsample(self.downsample(x))
        return result


class _Middle(nn.Module):
    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, config.norm_groups)
        self.attn_1 = AttentionBlock(channels, config.norm_groups) if config.attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels, config.norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return result


class Encoder(nn.Module):
    """From images (batch, 3, height, width) in [-1, 1] to features (batch, latent_channels, height/stride, width/stride)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1)
        self.down = nn.ModuleList()
        before = config.base_channels
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            stage = _Level(
                [before] + [width] * config.blocks_per_level, attention=config.attention and last, norm_groups=config.norm_groups
            )
            if not last:
                stage.downsample = Downsample(width)
            self.down.append(stage)
            before = width
        self.mid = _Middle(before, config)
        self.norm_out = _norm(before, config.norm_groups)
        self.conv_out = nn.Conv2d(before, config.latent_channels, 3, padding=1)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features, unbounded."""
        x = self.conv_in(image)
        for stage in self.down:
            x = stage(x)
        result: Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(x))))
        return result


class Decoder(nn.Module):
    """From latents (batch, latent_channels, rows, columns) to images (batch, 3, rows * stride, columns * stride)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        before = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, before, 3, padding=1)
        self.mid = _Middle(before, config)
        stages = []
        for level in reversed(range(len(widths))):
            stage = _Level(
                [before] + [widths[level]] * (config.blocks_per_level + 1),
                attention=config.attention and level == len(widths) - 1,
                norm_groups=config.norm_groups,
            )
            if level > 0:
                stage.upsample = Upsample(widths[level])
            stages.append(stage)
            before = widths[level]
        self.up = nn.ModuleList(reversed(stages))
        self.norm_out = _norm(before, config.norm_groups)
        self.conv_out = nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, latent: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Images, not clamped."""
        x = self.mid(self.conv_in(latent))
        for stage in reversed(self.up):
            x = stage(x)
        result: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return result


class BinaryTokenizer(nn.Module):
    """Infinity's tokenizer: only an auto-encoder, since binary spherical quantization has no parameters."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features before quantization."""
        result: Tensor = self.encoder(image)
        return result

    def decode(self, latent: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Images in [-1, 1]."""
        result: Tensor = self.decoder(latent).clamp(-1, 1)
        return result


class VectorTokenizer(nn.Module):
    """VAR's tokenizer: auto-encoder, 3 x 3 convolutions around the quantizer, and the quantizer."""

    def __init__(self, config: AutoencoderConfig, quantizer: VectorQuantizer) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = quantizer
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)

    def encode(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features before quantization."""
        result: Tensor = self.quant_conv(self.encoder(image))
        return result

    def decode(self, latent: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Images in [-1, 1]."""
        result: Tensor = self.decoder(self.post_quant_conv(latent)).clamp(-1, 1)
        return result


def binary_tokenizer(
    *,
    latent_channels: int,
    base_channels: int = 128,
    multipliers: Sequence[int] = (1, 2, 4, 4, 4),
    blocks_per_level: int = 2,
    norm_groups: int | None = None,
) -> BinaryTokenizer:
    """A tokenizer with random weights, built from the sizes in a config or a model folder; see `AutoencoderConfig`."""
    return BinaryTokenizer(AutoencoderConfig(latent_channels, base_channels, multipliers, blocks_per_level, norm_groups=norm_groups))
