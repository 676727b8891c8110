"""Infinity: a text-conditioned transformer that predicts the bits of the next scale, and its sampling.

The 2B model, the 8B model and the small world's model are the same classes with other sizes. Shape suffixes as in
`models/layers.py`.

Source: Infinity (arXiv 2412.04431) and its released code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.flops import decoder_flops
from tts_var.models.layers import (
    AdaptiveNormBeforeHead,
    CrossAttention,
    DropPath,
    FeedForward,
    SelfAttention,
    block_causal_mask,
    layer_norm,
    mlp_width,
    rotary_angles,
)
from tts_var.models.particles import KeyValues, Particles
from tts_var.models.quantizers import add_scale, pool, resize
from tts_var.models.random_streams import RandomStreams
from tts_var.models.text import TextEncoder, TextFeatures
from tts_var.numerics.sampling import check_filters, filter_logits, guided_logits
from tts_var.numerics.scales import ScaleTable

MAX_SCALES = 15


@dataclass(frozen=True)
class InfinityConfig:
    """Sizes of an Infinity transformer.

    Attributes:
        depth: transformer blocks.
        width: channels.
        num_heads: attention heads.
        token_bits: bits per token (latent channels, times 4 where a token covers 2 x 2 cells).
        text_width: width of the text features.
        unconditional_tokens: learned text rows of the unconditional branch, at least the length of the longest prompt in tokens.
        drop_path: stochastic depth rate of the last block in training; the rate grows linearly from 0 over the blocks.

    Raises:
        UserError: if the head width is not a multiple of 4, or `text_width` is below 128 or does not divide the width into equal heads.
    """

    depth: int
    width: int
    num_heads: int
    token_bits: int
    text_width: int = 2048
    unconditional_tokens: int = 512
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.width // self.num_heads % 4:
            raise UserError(f"width is {self.width} with num_heads {self.num_heads}: make width / num_heads a multiple of 4")
        if self.pooling_heads < 1 or self.width % self.pooling_heads:
            raise UserError(
                f"text_width is {self.text_width} with width {self.width}: use a multiple of 128 with text_width / 128 a divisor of width"
            )

    @property
    def pooling_heads(self) -> int:
        """Number of heads of the text pooling."""
        return self.text_width // (128 if self.width <= 4096 else 64)


INFINITY_SIZES = {
    "layer12": InfinityConfig(12, 768, 8, 32),
    "layer16": InfinityConfig(16, 1152, 12, 32),
    "layer24": InfinityConfig(24, 1536, 16, 32),
    "layer32": InfinityConfig(32, 2080, 20, 32),
    "layer40": InfinityConfig(40, 2688, 24, 32),
    "layer48": InfinityConfig(48, 3360, 28, 32),
    "2B": InfinityConfig(32, 2048, 16, 32),
    "8B": InfinityConfig(40, 3584, 28, 56),
}


class TextCondition(NamedTuple):
    """Condition of the transformer for a batch of texts, computed once per image.

    Attributes:
        pooled: (groups, width); the start token, and the input of every adaptive norm.
        modulation: shared adaptive norm, (groups, 1, 6, width).
        key_values: keys and values of the text per block, (groups, heads, tokens, head width).
        mask: true on valid text tokens, (groups, tokens).
    """

    pooled: Tensor
    modulation: Tensor
    key_values: list[KeyValues]
    mask: Tensor


class TextPooling(nn.Module):
    """Attention pooling of the text with one learned query per head."""

    zero_k_bias: Tensor

    def __init__(self, width: int, text_width: int, num_heads: int) -> None:
        super().__init__()
        self.mat_q = nn.Parameter(torch.empty(1, num_heads, width // num_heads))
        self.mat_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, text_GTE: Tensor, mask_GT: Tensor) -> Tensor:
        """(groups, tokens, text width) to (groups, width)."""
        joined = functional.linear(text_GTE, self.mat_kv.weight, torch.cat((self.zero_k_bias, self.v_bias)))
        key, value = joined.unflatten(-1, (2, self.mat_q.shape[1], -1)).permute(2, 0, 3, 1, 4)
        query = self.mat_q[:, :, None].expand(len(text_GTE), -1, -1, -1)
        pooled = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_GT[:, None, None, :])
        result: Tensor = self.proj(pooled.flatten(1))
        return result


class InfinityBlock(nn.Module):
    """Modulated self-attention, cross-attention to the text, modulated feed-forward."""

    def __init__(self, config: InfinityConfig, drop_path: float) -> None:
        super().__init__()
        self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, config.width))
        self.sa = SelfAttention(config.width, config.num_heads)
        self.ca_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.ca = CrossAttention(config.width, config.num_heads)
        self.ffn = FeedForward(config.width, mlp_width(config.width))
        self.drop_path = DropPath(drop_path)

    def key_values(self, memory_GTC: Tensor) -> KeyValues:
        """Keys and values of the text for this block's cross-attention."""
        return self.ca.key_values(memory_GTC)

    def forward(
        self,
        x_GNC: Tensor,
        modulation: Tensor,
        text: KeyValues | Tensor,
        text_mask: Tensor,
        rotary: KeyValues,
        *,
        members: int = 1,
        mask: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """Output of one block, and the keys and values of its tokens.

        The tokens of a group's `members` are consecutive; self-attention is restricted to one member. `text` is the output
        of `key_values`, or the text features themselves if they are used only once.
        """
        if isinstance(text, Tensor):
            text = self.key_values(text)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (modulation + self.ada_gss).unbind(2)
        # Self-attention per member: (groups, members * tokens, width) -> (groups * members, tokens, width) and back.
        # Cross-attention and norms keep the members in one row, so that the text of a group is stored once.
        attended, present = self.sa(
            (layer_norm(x_GNC) * (1 + scale1) + shift1).unflatten(1, (members, -1)).flatten(0, 1), rotary, mask, past
        )
        x_GNC = x_GNC + self.drop_path(attended.unflatten(0, (-1, members)).flatten(1, 2) * gamma1)
        x_GNC = x_GNC + self.ca(self.ca_norm(x_GNC), text, text_mask)
        x_GNC = x_GNC + self.drop_path(self.ffn(layer_norm(x_GNC) * (1 + scale2) + shift2) * gamma2)
        return x_GNC, present


class InfinityTransformer(nn.Module):
    """The transformer of Infinity.

    Parameter names are the released names without block chunks.
    """

    def __init__(self, config: InfinityConfig, scales: ScaleTable) -> None:
        super().__init__()
        if len(scales) > MAX_SCALES:
            raise UserError(f"there are {len(scales)} scales but Infinity has embeddings for {MAX_SCALES}: use at most {MAX_SCALES} scales")
        self.config = config
        self.scales = scales
        width = config.width
        self.cfg_uncond = nn.Parameter(torch.empty(config.unconditional_tokens, config.text_width))
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.text_norm = nn.RMSNorm(config.text_width, eps=1e-6)
        self.text_proj_for_sos = nn.ModuleDict({"ca": TextPooling(width, config.text_width, config.pooling_heads)})
        self.text_proj_for_ca = nn.Sequential(nn.Linear(config.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
        self.lvl_embed = nn.Embedding(MAX_SCALES, width)
        self.word_embed = nn.Linear(config.token_bits, width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        rates = [config.drop_path * index / max(1, config.depth - 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(InfinityBlock(config, rate) for rate in rates)
        self.head_nm = AdaptiveNormBeforeHead(width)
        self.head = nn.Linear(width, 2 * config.token_bits)
        self._angles = rotary_angles(scales, width // config.num_heads)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; inputs are cast to it, logits are returned in float32."""
        return self.word_embed.weight.dtype

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Infinity's initialisation: truncated normals of std sqrt(1 / (3 width)), small gates, scaled-down outputs."""
        width, depth = self.config.width, self.config.depth
        std = (1 / (3 * width)) ** 0.5

        def truncated(tensor: Tensor, deviation: float) -> None:
            nn.init.trunc_normal_(tensor, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)

        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    truncated(module.weight, std)
                    if isinstance(module, nn.Linear) and module.bias is not None:
                        module.bias.zero_()
            truncated(self.pos_start, std)
            truncated(self.cfg_uncond, 1.2 / self.config.text_width**0.5)
            pooling = self.text_proj_for_sos["ca"]
            assert isinstance(pooling, TextPooling)
            truncated(pooling.mat_q, std)
            self.head.weight.mul_(0.02)
            head_linear = self.head_nm.ada_lin[1]
            assert isinstance(head_linear, nn.Linear)
            head_linear.weight.mul_(1e-3)
            for block in self.blocks:
                assert isinstance(block, InfinityBlock)
                block.ada_gss.normal_(std=width**-0.5, generator=generator)
                block.ada_gss[:, :, :2].mul_(5e-6)
                block.ada_gss[:, :, 2:].mul_(1e-3)
                for module in (block.sa.proj, block.ca.proj, block.ffn.fc2):
                    module.weight.div_((2 * depth) ** 0.5)

    def unconditional(self, mask: Bool[Tensor, "batch tokens"]) -> TextFeatures:
        """Text features of the unconditional branch: the first learned rows in place of the text, with the mask of the prompts.

        Raises:
            UserError: if a prompt has more tokens than the model has learned rows.
        """
        tokens = mask.shape[1]
        if tokens > len(self.cfg_uncond):
            raise UserError(f"a prompt has {tokens} tokens but the model has {len(self.cfg_uncond)} unconditional rows: shorten the prompt")
        return TextFeatures(self.cfg_uncond[:tokens].expand(len(mask), -1, -1), mask)

    def condition(self, text: TextFeatures) -> TextCondition:
        """Condition of the blocks for a batch of texts."""
        pooled, memory = self._project_text(text)
        return TextCondition(
            pooled=pooled,
            modulation=self._modulation(pooled),
            key_values=[block.key_values(memory) for block in self.blocks if isinstance(block, InfinityBlock)],
            mask=text.mask,
        )

    def forward(self, inputs: Float[Tensor, "batch tokens bits"], text: TextFeatures) -> Float[Tensor, "batch all_tokens bits 2"]:
        """Teacher-forced logits of all scales, or of the first ones.

        Args:
            inputs: token inputs of scales 1 and up, concatenated; those of the last scales may be left out.
            text: features of the prompts.
        """
        pooled, memory = self._project_text(text)
        modulation = self._modulation(pooled)
        # Scale 0 has one token, the pooled text; `inputs` holds the tokens of scales 1 and up. All scales run in one pass
        # under the block-causal mask (tokens, tokens), which gives the logits of cached sampling.
        # The mask lets no scale attend to a later one, so the first scales alone have the same logits.
        start, length = pooled[:, None] + self.pos_start, inputs.shape[1] + 1
        x_GNC = torch.cat((start, self.word_embed(inputs.to(self.dtype))), dim=1) + self._level_rows()[:length].to(start.device)
        mask = block_causal_mask(self.scales.lengths)[:length, :length].to(start.device)
        rotary = self._rotary(0, length, start.device)
        for block in self.blocks:
            x_GNC, _ = block(x_GNC, modulation, memory, text.mask, rotary, mask=mask)
        return self.logits(x_GNC, pooled)

    def _project_text(self, text: TextFeatures) -> tuple[Tensor, Tensor]:
        """The pooled text (groups, width), and the text tokens for cross-attention (groups, tokens, width)."""
        norm = self.text_norm
        normed = functional.rms_norm(text.values.float(), norm.normalized_shape, norm.weight.float(), norm.eps).to(self.dtype)
        return self.text_proj_for_sos["ca"](normed, text.mask), self.text_proj_for_ca(normed)

    def _modulation(self, pooled: Tensor) -> Tensor:
        modulation: Tensor = self.shared_ada_lin(pooled).unflatten(-1, (1, 6, -1))
        return modulation

    def step(
        self,
        x_GNC: Tensor,
        scale: int,
        condition: TextCondition,
        cache: Sequence[KeyValues],
        *,
        members: int = 1,
        mix_after: Sequence[int] = (),
        guidance: float = 1.0,
    ) -> tuple[Tensor, list[KeyValues]]:
        """Hidden states of one scale, and the cache with its tokens.

        Args:
            x_GNC: token embeddings without level embedding, (groups, members * tokens, width).
            scale: index of the scale.
            condition: condition of the groups.
            cache: keys and values of coarser scales per block, (groups * members, heads, tokens, head width).
            members: images per group.
            mix_after: blocks after which the two halves of the groups (conditional, unconditional) are
                combined by `guidance`; both halves continue with the result.
            guidance: guidance strength of `mix_after`.
        """
        begin, length = self.scales.offsets[scale], self.scales.lengths[scale]
        rotary = self._rotary(begin, begin + length, x_GNC.device)
        x_GNC = x_GNC + self.lvl_embed.weight[scale]
        present = []
        for index, block in enumerate(self.blocks):
            past = cache[index] if cache else None
            x_GNC, key_values = block(
                x_GNC, condition.modulation, condition.key_values[index], condition.mask, rotary, members=members, past=past
            )
            present.append(key_values)
            if index in mix_after:
                mixed = _guided_halves(x_GNC, guidance)
                x_GNC = torch.cat((mixed, mixed))
        return x_GNC, present

    def logits(self, x_GNC: Tensor, pooled: Tensor) -> Float[Tensor, "groups tokens bits 2"]:
        """Two logits per bit: column 0 for bit 0, column 1 for bit 1."""
        return self.head(self.head_nm(x_GNC, pooled)).float().unflatten(-1, (-1, 2))

    def _level_rows(self) -> Tensor:
        return self.lvl_embed.weight[: len(self.scales)].repeat_interleave(
            torch.tensor(self.scales.lengths, device=self.lvl_embed.weight.device), 0
        )

    def _rotary(self, begin: int, end: int, device: torch.device) -> KeyValues:
        angles = self._angles[begin:end].to(device)
        return angles.cos(), angles.sin()


def infinity_transformer(
    scales: ScaleTable,
    *,
    latent_channels: int,
    depth: int,
    width: int,
    num_heads: int,
    text_width: int = 2048,
    unconditional_tokens: int = 512,
    drop_path: float = 0.0,
) -> InfinityTransformer:
    """A transformer with PyTorch's default initialisation, built from the sizes in a config or a model folder.

    Args:
        scales: token grids, coarse to fine.
        latent_channels: channels of the tokenizer; a token has the channels of `scales.patch ** 2` latent cells.
        depth, width, num_heads, text_width, unconditional_tokens, drop_path: see `InfinityConfig`.
    """
    bits = latent_channels * scales.patch**2
    return InfinityTransformer(InfinityConfig(depth, width, num_heads, bits, text_width, unconditional_tokens, drop_path), scales)


@dataclass(frozen=True)
class InfinitySampling:
    """Sampling settings of the bits.

    Attributes:
        guidance: classifier-free guidance, one value or one per scale; 1 is none.
        temperature: logits are divided by it, one value or one per scale.
        top_k: number of classes kept; with two classes per bit, 2 or more has no effect.
        top_p: probability mass kept, 0 for all: with .97 a bit whose less likely class has at most .03 is deterministic.
        guidance_layers: positions of the guidance: 0 applies it to the logits, -k after block depth - k.

    Raises:
        UserError: if a temperature is not positive, a value is not finite, top_k is negative, or top_p is outside [0, 1].
    """

    guidance: float | tuple[float, ...] = 3.0
    temperature: float | tuple[float, ...] = 1.0
    top_k: int = 0
    top_p: float = 0.0
    guidance_layers: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name, value in (("guidance", self.guidance), ("temperature", self.temperature), ("top_k", self.top_k), ("top_p", self.top_p)):
            values = value if isinstance(value, Sequence) else (value,)
            if not all(isinstance(item, int | float) and math.isfinite(item) for item in values):
                raise UserError(f"{name} is {value}: it must be a finite number")
            if name == "temperature" and min(values) <= 0:
                raise UserError(f"temperature is {value}: it must be above 0")
        check_filters(self.top_k, self.top_p)

    def at(self, scale: int, num_scales: int) -> tuple[float, float]:
        """Guidance and temperature of one scale.

        Raises:
            UserError: if a list does not have one value per scale.
        """
        values = []
        for name, value in (("guidance", self.guidance), ("temperature", self.temperature)):
            if isinstance(value, Sequence):
                if len(value) != num_scales:
                    raise UserError(f"{name} lists {len(value)} values for {num_scales} scales: give one value, or one per scale")
                values.append(float(value[scale]))
            else:
                values.append(float(value))
        return values[0], values[1]


class InfinityCondition(NamedTuple):
    """Condition of a batch of prompts for all guidance branches.

    Attributes:
        text: condition with one row per branch and prompt.
        num_prompts: prompts in the batch.
        num_branches: 2 with guidance, else 1.
    """

    text: TextCondition
    num_prompts: int
    num_branches: int


class InfinityGenerator:
    """Text-to-image model with the `NextScaleModel` contract: text encoder, transformer and tokenizer.

    Args:
        transformer: the transformer.
        tokenizer: its tokenizer.
        text_encoder: maps prompts to text features.
        sampling: sampling settings of the bits.
        negative_prompt: text of the unconditional branch, instead of the learned rows; needs guidance.

    Raises:
        UserError: if the tokenizer's bits per token differ from the transformer's, or a negative prompt has no guidance to act by.
    """

    def __init__(
        self,
        transformer: InfinityTransformer,
        tokenizer: BinaryTokenizer,
        text_encoder: TextEncoder,
        sampling: InfinitySampling,
        *,
        negative_prompt: str | None = None,
    ) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.sampling = sampling
        self.scales = transformer.scales
        self.negative_prompt = negative_prompt
        if negative_prompt is not None and not self.is_guided:
            raise UserError(f"the negative prompt '{negative_prompt}' has no effect at guidance 1: set another guidance, or leave it out")
        bits = tokenizer.config.latent_channels * self.scales.patch**2
        if bits != transformer.config.token_bits:
            raise UserError(
                f"the tokenizer has {bits} bits per token but the transformer {transformer.config.token_bits}: load a matching pair"
            )
        depth, layers = transformer.config.depth, sampling.guidance_layers
        if not layers or not all(-depth <= layer <= 0 for layer in layers):
            raise UserError(f"guidance_layers is {list(layers)}: give 0 for the logits, or -1 (last) to -{depth} (first) for a block")

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.transformer.pos_start.device

    @property
    def is_guided(self) -> bool:
        """Whether any scale uses guidance, so that the unconditional branch is needed."""
        return any(self.sampling.at(scale, len(self.scales))[0] != 1 for scale in range(len(self.scales)))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a finished image in pixels."""
        rows, columns = self.scales.latent_grids[-1]
        return rows * self.tokenizer.config.stride, columns * self.tokenizer.config.stride

    def check(self, prompts: Sequence[str]) -> None:
        """Validates prompts with the text encoder; see `NextScaleModel.check`."""
        self.text_encoder.check(prompts if self.negative_prompt is None else [*prompts, self.negative_prompt])

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> InfinityCondition:
        """Conditions of all guidance branches; without the unconditional one if no scale uses guidance."""
        negative = None if self.negative_prompt is None else self.text_encoder.encode([self.negative_prompt])
        return self.condition(self.text_encoder.encode(prompts), negative)

    @torch.no_grad()
    def condition(self, text: TextFeatures, negative: TextFeatures | None = None) -> InfinityCondition:
        """Conditions of all guidance branches from text features.

        Args:
            text: features of the prompts.
            negative: features of one negative prompt for all prompts, or of one each, which may have another number of tokens; None
                for the learned rows, of which every prompt uses as many as it has tokens.
        """
        both = text
        if self.is_guided:
            empty = self.transformer.unconditional(text.mask) if negative is None else negative.repeated(len(text.mask))
            both = text.joined(empty)
        return InfinityCondition(self.transformer.condition(both), len(text.mask), 2 if self.is_guided else 1)

    def start(self, condition: InfinityCondition, num_particles: int) -> Particles:
        """Particles before the first scale."""
        rows = condition.num_prompts * num_particles
        latent = torch.zeros(rows, self.tokenizer.config.latent_channels, *self.scales.latent_grids[-1], device=self.device)
        return Particles(condition.num_prompts, 0, latent, [], torch.zeros(rows, 0, dtype=torch.long))

    @torch.no_grad()
    def advance(self, particles: Particles, condition: InfinityCondition, streams: RandomStreams) -> Particles:
        """One more scale of every particle."""
        logits, cache = self.next_logits(particles, condition)
        return self.extend(particles, self.sample(logits, particles.scale, streams), cache)

    @torch.no_grad()
    def next_logits(
        self, particles: Particles, condition: InfinityCondition
    ) -> tuple[Float[Tensor, "rows tokens bits 2"], list[KeyValues]]:
        """Logits of the next scale after temperature and guidance, and the cache with its tokens."""
        # Rows are branch-major: (branches * prompts, particles * tokens, width). Cache entries are kept as (branches, rows, ...)
        # and flattened here. The head runs on the conditional half only, unless guidance is applied to the logits.
        scale, members, branches = particles.scale, particles.per_prompt, condition.num_branches
        guidance, temperature = self.sampling.at(scale, len(self.scales))
        x_GNC = self._inputs(particles, condition)
        flat = [(key.flatten(0, 1), value.flatten(0, 1)) for key, value in particles.cache]
        depth = self.transformer.config.depth
        guided_blocks = [depth + layer for layer in self.sampling.guidance_layers if layer < 0] if branches == 2 and guidance != 1 else []
        x_GNC, present = self.transformer.step(
            x_GNC, scale, condition.text, flat, members=members, mix_after=guided_blocks, guidance=guidance
        )
        cache = [(key.unflatten(0, (branches, -1)), value.unflatten(0, (branches, -1))) for key, value in present]
        on_logits = branches == 2 and guidance != 1 and 0 in self.sampling.guidance_layers
        groups = len(x_GNC) if on_logits else condition.num_prompts
        logits = self.transformer.logits(x_GNC[:groups], condition.text.pooled[:groups]) * (1 / temperature)
        if on_logits:
            logits = _guided_halves(logits, guidance)
        return logits.unflatten(1, (members, -1)).flatten(0, 1), cache

    def sample(
        self, logits: Float[Tensor, "rows tokens bits 2"], scale: int, streams: RandomStreams
    ) -> UInt8[Tensor, "rows height width channels"]:
        """Sampled bits of one scale on the latent grid."""
        probabilities = filter_logits(logits, top_k=self.sampling.top_k, top_p=self.sampling.top_p).softmax(-1)
        bits = streams.classes(probabilities.flatten(1, 2), scale=scale).to(torch.uint8)
        return self.to_latent_grid(bits.view(logits.shape[:3]), scale)

    def to_latent_grid(self, bits: UInt8[Tensor, "rows tokens bits"], scale: int) -> UInt8[Tensor, "rows height width channels"]:
        """Token bits arranged on the latent grid of `scale`; with patch 2 a token fills 2 x 2 cells."""
        on_grid = bits.unflatten(1, self.scales.grids[scale])
        if self.scales.patch == 1:
            return on_grid
        return functional.pixel_shuffle(on_grid.permute(0, 3, 1, 2), self.scales.patch).permute(0, 2, 3, 1)

    def extend(self, particles: Particles, bits: UInt8[Tensor, "rows height width channels"], cache: list[KeyValues]) -> Particles:
        """The particles with the given bits as their next scale."""
        return particles.advanced(add_scale(particles.latent, bits), cache)

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "rows channels height width"], *, max_size: int | None = None) -> Float[Tensor, "rows 3 h w"]:
        """Images in [0, 1]."""
        weights = next(self.tokenizer.parameters())
        return (self.tokenizer.decode(pool(latent, self._decode_grid(max_size)).to(weights.dtype)).float() + 1) / 2

    def advance_flops(self, scale: int, condition: InfinityCondition) -> float:
        """Floating-point operations of one particle at one scale; see `NextScaleModel.advance_flops`."""
        config = self.transformer.config
        tokens = self.scales.lengths[scale]
        context = self.scales.offsets[scale] + tokens
        width, hidden = config.width, mlp_width(config.width)
        linear = 4 * width * width + 2 * width * width + 2 * width * hidden
        attention = 2 * width * context + 2 * width * condition.text.mask.shape[1]
        outside = tokens * (width * 2 * config.token_bits + width * config.token_bits)
        return 2.0 * condition.num_branches * (config.depth * tokens * (linear + attention) + outside)

    def decode_flops(self, *, max_size: int | None = None) -> float:
        """Floating-point operations of decoding one image."""
        return decoder_flops(self.tokenizer.config, self._decode_grid(max_size))

    def cache_bytes(self, scale: int) -> int:
        """Bytes of one particle's cache after `scale`, all guidance branches."""
        tokens = self.scales.offsets[scale] + self.scales.lengths[scale]
        per_branch = 2 * self.transformer.config.depth * tokens * self.transformer.config.width
        return (2 if self.is_guided else 1) * per_branch * self.transformer.pos_start.element_size()

    def _inputs(self, particles: Particles, condition: InfinityCondition) -> Tensor:
        """Embedded tokens of the next scale, (branches * prompts, particles * tokens, width)."""
        scale = particles.scale
        if scale == 0:
            start = condition.text.pooled[:, None] + self.transformer.pos_start
            return start.expand(-1, particles.per_prompt, -1)
        tokens = tokens_of(resize(particles.latent, self.scales.latent_grids[scale]), self.scales.patch)
        embedded = self.transformer.word_embed(tokens.to(self.transformer.dtype)).unflatten(0, (condition.num_prompts, -1)).flatten(1, 2)
        return embedded.repeat(condition.num_branches, 1, 1)

    def _decode_grid(self, max_size: int | None) -> tuple[int, int]:
        rows, columns = self.scales.latent_grids[-1]
        stride = self.tokenizer.config.stride
        longest = max(rows, columns) * stride
        if max_size is None or longest <= max_size:
            return rows, columns
        shrink = max_size / longest
        return max(1, round(rows * shrink)), max(1, round(columns * shrink))


def _guided_halves(both: Tensor, guidance: float) -> Tensor:
    """Guided combination of the first (conditional) and the second (unconditional) half of the rows."""
    conditional, unconditional = both.chunk(2)
    return guided_logits(conditional, unconditional, guidance)


def tokens_of(latent: Float[Tensor, "rows channels height width"], patch: int) -> Float[Tensor, "rows tokens bits"]:
    """Latent cells as tokens; with `patch` 2 a token covers 2 x 2 cells."""
    return functional.pixel_unshuffle(latent, patch).flatten(2).transpose(1, 2)
