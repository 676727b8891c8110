"""For tests, ours and yours: random models of a few thousand parameters, and a reward without a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer, VectorTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityGenerator, InfinitySampling, InfinityTransformer
from tts_var.models.quantizers import VectorQuantizer
from tts_var.models.text import WordEncoder
from tts_var.models.var import VARConfig, VARGenerator, VARSampling, VARTransformer
from tts_var.scales import square_scales


class RedReward:
    """How red a picture is."""

    image_size: int | None = None
    flops_per_image = 0.0

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Mean of the red channel minus the mean of the others, times 10."""
        means = images.mean((2, 3))
        return 10 * (means[:, 0] - means[:, 1:].mean(1))


def tiny_generator(seed: int = 0) -> InfinityGenerator:
    """A random Infinity model of four scales (1, 2, 3, 4) that draws pictures of 8 x 8 pixels."""
    stream = torch.Generator().manual_seed(seed)
    transformer = InfinityTransformer(InfinityConfig(2, 32, 2, 8, text_width=128, unconditional_tokens=16), square_scales((1, 2, 3, 4)))
    transformer.reset_parameters(stream)
    tokenizer = BinaryTokenizer(AutoencoderConfig(8, 24, (1, 1), 1))
    encoder = WordEncoder(128, num_layers=0)
    with torch.no_grad():
        for parameter in (*tokenizer.parameters(), *encoder.parameters()):
            parameter.normal_(std=0.3, generator=stream)
        # The initial gates are nearly closed: opened, so that every path matters.
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    return InfinityGenerator(transformer.eval(), tokenizer.eval(), encoder.eval(), InfinitySampling(guidance=2.0))


def tiny_var(seed: int = 0) -> VARGenerator:
    """A random VAR model of three classes and four scales (1, 2, 3, 4) that draws pictures of 8 x 8 pixels."""
    stream = torch.Generator().manual_seed(seed)
    transformer = VARTransformer(
        VARConfig(depth=2, width=32, num_heads=2, num_codes=16, code_width=8, num_classes=3), square_scales((1, 2, 3, 4))
    )
    tokenizer = VectorTokenizer(AutoencoderConfig(8, 24, (1, 1), 1), VectorQuantizer(16, 8, num_convolutions=4, num_scales=4))
    with torch.no_grad():
        for parameter in (*transformer.parameters(), *tokenizer.parameters()):
            parameter.normal_(std=0.3, generator=stream)
    return VARGenerator(transformer.eval(), tokenizer.eval(), VARSampling(top_k=0, top_p=0.0))
