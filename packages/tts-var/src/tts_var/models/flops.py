"""Floating-point operations of the convolutional decoders, computed from their sizes; a multiply-add counts as two."""

from tts_var.models.autoencoder import AutoencoderConfig
from tts_var.numerics.scales import Grid


def decoder_flops(config: AutoencoderConfig, grid: Grid) -> float:
    """Operations of decoding one latent of `grid` cells.

    Includes convolutions and attention, excludes norms and activations. Infinity's d=32 decoder needs 0.616 TFLOP for
    256 x 256 pixels.
    """
    cells = float(grid[0] * grid[1])
    widths = config.widths
    deepest = widths[-1]

    # Multiply-adds per cell: a 3 x 3 convolution costs 9 * channels_in * channels_out; `cells` grows fourfold per level.
    def block(before: int, after: int) -> float:
        return 9.0 * before * after + 9.0 * after * after + (before * after if before != after else 0)

    attention = 4.0 * deepest * deepest + 2.0 * deepest * cells if config.attention else 0.0
    total = cells * (9.0 * config.latent_channels * deepest + 2 * block(deepest, deepest) + attention)
    before = deepest
    for level in reversed(range(len(widths))):
        width = widths[level]
        here = block(before, width) + config.blocks_per_level * block(width, width)
        if level == len(widths) - 1:
            here += (config.blocks_per_level + 1) * attention
        total += cells * here
        if level > 0:
            cells *= 4
            total += cells * 9.0 * width * width
        before = width
    total += cells * 9.0 * widths[0] * 3
    if config.attention:  # the convolution before the decoder
        total += float(grid[0] * grid[1]) * 9.0 * config.latent_channels**2
    return 2.0 * total
