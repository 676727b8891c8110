"""Training of the Infinity transformer with its text encoder: teacher forcing with bitwise self-correction."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data import CaptionedImages
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.infinity import InfinityTransformer, tokens_of
from tts_var.models.quantizers import RandomFlips, quantize_bits, resize
from tts_var.models.text import TextFeatures, TrainableTextEncoder
from tts_var.numerics.scales import ScaleTable

TOKEN_WEIGHTS = ("uniform", "per_scale")


@dataclass
class TransformerLossConfig:
    """The transformer's loss.

    Attributes:
        flip_strength: largest flip probability of bitwise self-correction (0.3 in the 2B recipe).
        flip_scales: scales that are perturbed; None for all.
        text_dropout: fraction of the examples whose text features are replaced by the unconditional rows.
        weighting: `uniform`, or `per_scale`: proportional to 1 / sqrt(tokens of the scale).
        coarse_fraction: fraction of the steps that train the first `coarse_scales` scales alone: what is in an image and where is
            decided there, in a small part of the tokens.
        coarse_scales: number of these scales; None for all but the last three.
    """

    flip_strength: float = 0.3
    flip_scales: int | None = None
    text_dropout: float = 0.1
    weighting: str = "uniform"
    coarse_fraction: float = 0.0
    coarse_scales: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.coarse_fraction < 1:
            raise UserError(f"loss.coarse_fraction is {self.coarse_fraction}: it must be at least 0 and below 1")
        if self.coarse_scales is not None and self.coarse_scales < 1:
            raise UserError(f"loss.coarse_scales is {self.coarse_scales}: it must be 1 or more, or null")
        if self.weighting not in TOKEN_WEIGHTS:
            raise UserError(f"loss.weighting is '{self.weighting}': choose one of {', '.join(TOKEN_WEIGHTS)}")
        if not 0 <= self.flip_strength <= 0.5:
            raise UserError(f"loss.flip_strength is {self.flip_strength}: it must be between 0 and 0.5")
        if not 0 <= self.text_dropout < 1:
            raise UserError(f"loss.text_dropout is {self.text_dropout}: it must be at least 0 and below 1")


def token_weights(scales: ScaleTable, kind: str) -> Float[Tensor, " tokens"]:
    """Weights of the tokens of all scales, summing to 1.

    Source: Infinity's recipe; `per_scale` is its 1 / sqrt(tokens of the scale).
    """
    lengths = torch.tensor(scales.lengths)
    weights = torch.ones(len(lengths)) if kind == "uniform" else lengths.float().rsqrt()
    per_token = weights.repeat_interleave(lengths)
    return per_token / per_token.sum()


def bit_losses(logits: Float[Tensor, "batch tokens bits 2"], bits: UInt8[Tensor, "batch tokens bits"]) -> Float[Tensor, "batch tokens"]:
    """Cross entropy over the two classes of every bit, mean over the bits of a token, in nats."""
    # Two-class cross entropy depends only on the difference of the logits: log(1 + exp(-(z_right - z_wrong))).
    margin = logits[..., 1] - logits[..., 0]
    return functional.binary_cross_entropy_with_logits(margin, bits.to(margin), reduction="none").mean(-1)


class TextToBits(nn.Module):
    """Text encoder and transformer in one module, so that a strategy wraps them together."""

    def __init__(self, transformer: InfinityTransformer, text_encoder: TrainableTextEncoder) -> None:
        super().__init__()
        assert isinstance(text_encoder, nn.Module)
        self.transformer = transformer
        self.text_encoder: nn.Module = text_encoder
        self.tokenize = text_encoder.tokenize

    def forward(self, inputs: Tensor, words: Tensor, dropped: Tensor) -> Tensor:
        """Teacher-forced logits; rows with `dropped` use the unconditional text features."""
        # On a CPU the backward of the fused attention takes a third of a step in bfloat16; separate products are faster there.
        unfused = words.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with sdpa_kernel(SDPBackend.MATH) if unfused else nullcontext():
            text = self.text_encoder(words)
            empty = self.transformer.unconditional(text.mask)
            values = torch.where(dropped[:, None, None], empty.values, text.values)
            logits: Tensor = self.transformer(inputs, TextFeatures(values, text.mask))
        return logits


class TransformerStage:
    """Prediction of the bits of all scales from text.

    The frozen tokenizer encodes every image once per process; the features are cached in memory.

    Args:
        model: text encoder and transformer.
        tokenizer: the frozen tokenizer.
        data: captioned images.
        loss: settings of the loss.
        seed: seed of bit flips and text dropout.
    """

    def __init__(
        self, model: TextToBits, tokenizer: BinaryTokenizer, data: CaptionedImages, loss: TransformerLossConfig, *, seed: int
    ) -> None:
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._tokenizer = tokenizer.eval()
        self._data = data
        self._loss = loss
        self._seed = seed
        self._tokenize = model.tokenize
        self._scales = model.transformer.scales
        self._weights = token_weights(self._scales, loss.weighting)
        coarse = max(1, len(self._scales) - 3) if loss.coarse_scales is None else loss.coarse_scales
        if coarse > len(self._scales):
            raise UserError(f"loss.coarse_scales is {coarse} but there are {len(self._scales)} scales")
        self._coarse_tokens = sum(self._scales.lengths[:coarse])
        self._features: dict[int, tuple[str, Tensor]] = {}

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Weighted cross entropy; `bit_accuracy` is the fraction of bits predicted by the likelier class."""
        prompts, features = self._encoded(indices)
        stream = generator(self._seed, "self_correction", step)
        count = len(self._scales) if self._loss.flip_scales is None else self._loss.flip_scales
        flips = RandomFlips(strength=self._loss.flip_strength, num_scales=count, generator=stream, first=first, batch_size=batch_size)
        quantized = quantize_bits(features, self._scales.latent_grids, flips)
        # Teacher forcing: input of scale i is the running sum after scale i - 1, resized to its latent grid; both inputs
        # (batch, tokens - first scale, bits) and targets (batch, tokens, bits) pack patch x patch cells into a token.
        patch, grids = self._scales.patch, self._scales.latent_grids
        inputs = torch.cat([tokens_of(resize(prefix, grid), patch) for prefix, grid in zip(quantized.prefixes, grids[1:], strict=True)], 1)
        bits = torch.cat([tokens_of(found.permute(0, 3, 1, 2), patch) for found in quantized.bits], dim=1)
        words = self._tokenize(prompts)
        # The same steps on every rank; bits and inputs are cut after they are made, so that the random numbers of a step are those
        # of a step over all scales.
        if float(torch.rand((), generator=generator(self._seed, "coarse", step))) < self._loss.coarse_fraction:
            inputs, bits = inputs[:, : self._coarse_tokens - 1], bits[:, : self._coarse_tokens]
        weights = self._weights[: bits.shape[1]] / self._weights[: bits.shape[1]].sum()
        dropped = torch.rand(batch_size, generator=stream)[first : first + len(prompts)] < self._loss.text_dropout
        device = next(model.parameters()).device
        logits = model(inputs.to(device), words.to(device), dropped.to(device))
        bits = bits.to(device)
        loss = (bit_losses(logits, bits) * weights.to(device)).sum(1).mean()
        accuracy = (logits.detach().argmax(-1) == bits).float().mean()
        return {"loss": loss, "bit_accuracy": accuracy}

    @torch.no_grad()
    def _encoded(self, indices: Sequence[int]) -> tuple[list[str], Tensor]:
        fresh = [index for index in indices if index not in self._features]
        if fresh:
            examples = self._data.examples(fresh)
            device = next(self._tokenizer.parameters()).device
            features = self._tokenizer.encode(examples.images.to(device)).cpu()
            for index, prompt, feature in zip(fresh, examples.prompts, features, strict=True):
                self._features[index] = (prompt, feature)
        chosen = [self._features[index] for index in indices]
        return [prompt for prompt, _ in chosen], torch.stack([feature for _, feature in chosen])
