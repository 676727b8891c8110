"""Test fixtures: random models of a few thousand parameters, and a reward without a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from triptych.errors import UserError
from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer, VectorTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityGenerator, InfinitySampling, InfinityTransformer
from tts_var.models.quantizers import VectorQuantizer
from tts_var.models.text import TextFeatures
from tts_var.models.var import VARConfig, VARGenerator, VARSampling, VARTransformer
from tts_var.numerics.scales import square_scales


class CharacterEncoder(nn.Module):
    """Text encoder with random features per character, for any text.

    Args:
        width: feature width.
        num_tokens: characters per prompt; shorter prompts are padded, longer ones truncated.
    """

    def __init__(self, width: int = 128, *, num_tokens: int = 16) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.characters = nn.Embedding(256, width)

    def check(self, prompts: Sequence[str]) -> None:
        """Raises `UserError` for an empty prompt."""
        for prompt in prompts:
            if not str(prompt):
                raise UserError("a prompt is empty: describe the image")

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Code points, 0 on padding."""
        self.check(prompts)
        rows = [[ord(character) % 256 for character in str(prompt)[: self.num_tokens]] for prompt in prompts]
        return torch.tensor([row + [0] * (self.num_tokens - len(row)) for row in rows])

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of a batch of prompts."""
        features: TextFeatures = self(self.tokenize(prompts).to(self.characters.weight.device))
        return features

    def forward(self, tokens: Int[Tensor, "batch tokens"]) -> TextFeatures:
        """Features of code points; padding is attended to."""
        return TextFeatures(self.characters(tokens), torch.ones_like(tokens, dtype=torch.bool))


class RedReward:
    """How red an image is."""

    image_size: int | None = None
    flops_per_image = 0.0

    def __call__(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str]) -> Float[Tensor, " rows"]:
        """Mean of the red channel minus the mean of the others, times 10."""
        means = images.mean((2, 3))
        return 10 * (means[:, 0] - means[:, 1:].mean(1))


def tiny_generator(seed: int = 0) -> InfinityGenerator:
    """A random Infinity model of four scales (1, 2, 3, 4) that samples images of 8 x 8 pixels."""
    stream = torch.Generator().manual_seed(seed)
    transformer = InfinityTransformer(InfinityConfig(2, 32, 2, 8, text_width=128, unconditional_tokens=16), square_scales((1, 2, 3, 4)))
    transformer.reset_parameters(stream)
    tokenizer = BinaryTokenizer(AutoencoderConfig(8, 24, (1, 1), 1))
    encoder = CharacterEncoder(128)
    with torch.no_grad():
        for parameter in (*tokenizer.parameters(), *encoder.parameters()):
            parameter.normal_(std=0.3, generator=stream)
        # The initial gates are close to 0: noise opens them, so that every path affects the output.
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    return InfinityGenerator(transformer.eval(), tokenizer.eval(), encoder.eval(), InfinitySampling(guidance=2.0))


def tiny_var(seed: int = 0) -> VARGenerator:
    """A random VAR model of three classes and four scales (1, 2, 3, 4) that samples images of 8 x 8 pixels."""
    stream = torch.Generator().manual_seed(seed)
    transformer = VARTransformer(
        VARConfig(depth=2, width=32, num_heads=2, num_codes=16, code_width=8, num_classes=3), square_scales((1, 2, 3, 4))
    )
    tokenizer = VectorTokenizer(AutoencoderConfig(8, 24, (1, 1), 1), VectorQuantizer(16, 8, num_convolutions=4, num_scales=4))
    with torch.no_grad():
        for parameter in (*transformer.parameters(), *tokenizer.parameters()):
            parameter.normal_(std=0.3, generator=stream)
    return VARGenerator(transformer.eval(), tokenizer.eval(), VARSampling(top_k=0, top_p=0.0))
