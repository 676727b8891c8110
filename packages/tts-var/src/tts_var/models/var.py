"""VAR: a class-conditional transformer that predicts the codes of the next scale, and its sampling.

Source: VAR (arXiv 2404.02905) and its released code. Shape suffixes as in `models/layers.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from triptych.errors import UserError
from tts_var.models.autoencoder import VectorTokenizer
from tts_var.models.flops import decoder_flops
from tts_var.models.layers import AdaptiveNormBeforeHead, DropPath, FeedForward, SelfAttention, block_causal_mask, layer_norm
from tts_var.models.particles import KeyValues, Particles
from tts_var.models.quantizers import pool
from tts_var.models.random_streams import RandomStreams
from tts_var.numerics.sampling import check_filters, filter_logits, guided_logits
from tts_var.numerics.scales import ScaleTable


@dataclass(frozen=True)
class VARConfig:
    """Sizes of a VAR transformer.

    Attributes:
        depth: transformer blocks.
        width: channels (64 per unit of depth in the released models).
        num_heads: attention heads.
        num_codes: rows of the codebook.
        code_width: channels of a code.
        num_classes: classes without the unconditional one.
        shared_modulation: one adaptive norm for all blocks (the 512-pixel d36) instead of one each.
        normalise: normalises queries and keys to unit length.
        drop_path: stochastic depth rate of the last block in training.
    """

    depth: int
    width: int
    num_heads: int
    num_codes: int = 4096
    code_width: int = 32
    num_classes: int = 1000
    shared_modulation: bool = False
    normalise: bool = True
    drop_path: float = 0.0


VAR_SIZES = {f"d{depth}": VARConfig(depth, 64 * depth, depth) for depth in (16, 20, 24, 30)}
VAR_SIZES["d36"] = VARConfig(36, 64 * 36, 36, shared_modulation=True)


class VARBlock(nn.Module):
    """Modulated self-attention and feed-forward."""

    def __init__(self, config: VARConfig, drop_path: float) -> None:
        super().__init__()
        self.attn = SelfAttention(config.width, config.num_heads, normalise=config.normalise)
        self.ffn = FeedForward(config.width, round(4 * config.width))
        self.drop_path = DropPath(drop_path)
        if config.shared_modulation:
            self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, config.width))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 6 * config.width))
        self._shared = config.shared_modulation

    def forward(
        self, x_BNC: Tensor, condition: Tensor, *, mask: Tensor | None = None, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """One block; `condition` is the class embedding (batch, width), or the shared modulation (batch, 1, 6, width)."""
        modulation = condition + self.ada_gss if self._shared else self.ada_lin(condition).unflatten(-1, (1, 6, -1))
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation.unbind(2)
        attended, present = self.attn(layer_norm(x_BNC) * (1 + scale1) + shift1, None, mask, past)
        x_BNC = x_BNC + self.drop_path(attended * gamma1)
        return x_BNC + self.drop_path(self.ffn(layer_norm(x_BNC) * (1 + scale2) + shift2) * gamma2), present


class VARTransformer(nn.Module):
    """The transformer of VAR, with the released parameter names."""

    def __init__(self, config: VARConfig, scales: ScaleTable) -> None:
        super().__init__()
        self.config = config
        self.scales = scales
        width = config.width
        self.pos_start = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, scales.num_tokens, width))
        self.lvl_embed = nn.Embedding(len(scales), width)
        self.class_emb = nn.Embedding(config.num_classes + 1, width)
        self.word_embed = nn.Linear(config.code_width, width)
        if config.shared_modulation:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        rates = [config.drop_path * index / max(1, config.depth - 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(VARBlock(config, rate) for rate in rates)
        self.head_nm = AdaptiveNormBeforeHead(width)
        self.head = nn.Linear(width, config.num_codes)

    def modulation(self, labels: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Class embedding, and the condition of the blocks computed from it."""
        embedded = self.class_emb(labels)
        if not self.config.shared_modulation:
            return embedded, embedded
        return embedded, self.shared_ada_lin(embedded).unflatten(-1, (1, 6, -1))

    def positions(self, scale: int) -> Tensor:
        """Level and position embeddings of the tokens of one scale, (1, tokens, width)."""
        begin = self.scales.offsets[scale]
        return self.lvl_embed.weight[scale] + self.pos_1LC[:, begin : begin + self.scales.lengths[scale]]

    def forward(self, inputs: Float[Tensor, "batch tokens channels"], labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch all codes"]:
        """Teacher-forced logits of all scales; `inputs` are those of scales 1 and up."""
        embedded, condition = self.modulation(labels)
        start = (embedded[:, None] + self.pos_start).expand(-1, self.scales.lengths[0], -1)
        x_BNC = torch.cat((start, self.word_embed(inputs.to(self.dtype))), dim=1)
        x_BNC = x_BNC + torch.cat([self.positions(scale) for scale in range(len(self.scales))], dim=1)
        mask = block_causal_mask(self.scales.lengths).to(x_BNC.device)
        for block in self.blocks:
            x_BNC, _ = block(x_BNC, condition, mask=mask)
        return self.logits(x_BNC, embedded)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; inputs are cast to it, logits are returned in float32."""
        return self.word_embed.weight.dtype

    def logits(self, x_BNC: Tensor, embedded: Tensor) -> Tensor:
        """Logits over the codebook, float32."""
        logits: Tensor = self.head(self.head_nm(x_BNC, embedded)).float()
        return logits


@dataclass(frozen=True)
class VARSampling:
    """Sampling settings of the codes.

    Attributes:
        guidance: strength t at the last scale; scale i of S has strength `t i / (S - 1)`.
        top_k: number of codes kept; 0 keeps all.
        top_p: probability mass kept; 0 keeps all.

    Raises:
        UserError: if a value is not finite, top_k is negative, or top_p is outside [0, 1].
    """

    guidance: float = 1.5
    top_k: int = 900
    top_p: float = 0.96

    def __post_init__(self) -> None:
        for name in ("guidance", "top_k", "top_p"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}: it must be a finite number")
        check_filters(self.top_k, self.top_p)


class VARCondition(NamedTuple):
    """Class labels, conditional rows first, then the unconditional class once per prompt."""

    labels: Tensor
    num_prompts: int


class VARGenerator:
    """Class-conditional image model with the `NextScaleModel` contract.

    Args:
        transformer: the transformer.
        tokenizer: its tokenizer.
        sampling: sampling settings of the codes.
    """

    def __init__(self, transformer: VARTransformer, tokenizer: VectorTokenizer, sampling: VARSampling) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.scales = transformer.scales

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a finished image in pixels."""
        rows, columns = self.scales.grids[-1]
        return rows * self.tokenizer.config.stride, columns * self.tokenizer.config.stride

    def check(self, prompts: Sequence[int | str]) -> None:
        """Validates class numbers; see `NextScaleModel.check`."""
        for prompt in prompts:
            if not str(prompt).isdecimal() or int(prompt) >= self.transformer.config.num_classes:
                raise UserError(f"the prompt '{prompt}' is not a class: use a number from 0 to {self.transformer.config.num_classes - 1}")

    def encode(self, prompts: Sequence[int | str]) -> VARCondition:
        """Conditions of class numbers.

        Raises:
            UserError: if a prompt is not a class number.
        """
        self.check(prompts)
        labels = [int(prompt) for prompt in prompts]
        device = self.transformer.pos_start.device
        unconditional = [self.transformer.config.num_classes] * len(labels)
        return VARCondition(torch.tensor(labels + unconditional, device=device), len(labels))

    def start(self, condition: VARCondition, num_particles: int) -> Particles:
        """Particles before the first scale."""
        rows = condition.num_prompts * num_particles
        latent = torch.zeros(rows, self.tokenizer.config.latent_channels, *self.scales.grids[-1], device=condition.labels.device)
        return Particles(condition.num_prompts, 0, latent, [], torch.zeros(rows, 0, dtype=torch.long))

    @torch.no_grad()
    def advance(self, particles: Particles, condition: VARCondition, streams: RandomStreams) -> Particles:
        """One more scale of every particle."""
        logits, cache = self.next_logits(particles, condition)
        probabilities = filter_logits(logits, top_k=self.sampling.top_k, top_p=self.sampling.top_p).softmax(-1)
        return self.extend(particles, streams.classes(probabilities, scale=particles.scale), cache)

    @torch.no_grad()
    def next_logits(self, particles: Particles, condition: VARCondition) -> tuple[Float[Tensor, "rows tokens codes"], list[KeyValues]]:
        """Logits of the next scale after guidance, and the cache with its tokens."""
        # Rows are branch-major, (2 * prompts * particles, tokens, width); the cache is kept as (2, rows, ...) and flattened here.
        model, scale = self.transformer, particles.scale
        embedded, modulation = model.modulation(condition.labels.repeat_interleave(particles.per_prompt))
        if scale == 0:
            x_BNC = (embedded[:, None] + model.pos_start).expand(-1, self.scales.lengths[0], -1)
        else:
            tokens = pool(particles.latent, self.scales.grids[scale]).flatten(2).transpose(1, 2)
            x_BNC = model.word_embed(tokens.to(model.dtype)).repeat(2, 1, 1)
        x_BNC = x_BNC + model.positions(scale)
        cache = []
        for index, block in enumerate(model.blocks):
            past = None
            if particles.cache:
                key, value = particles.cache[index]
                past = (key.flatten(0, 1), value.flatten(0, 1))
            x_BNC, (key, value) = block(x_BNC, modulation, past=past)
            cache.append((key.unflatten(0, (2, -1)), value.unflatten(0, (2, -1))))
        strength = self.sampling.guidance * scale / max(1, len(self.scales) - 1)
        conditional, unconditional = model.logits(x_BNC, embedded).chunk(2)
        return guided_logits(conditional, unconditional, 1 + strength), cache

    def extend(self, particles: Particles, indices: Int[Tensor, "rows tokens"], cache: list[KeyValues]) -> Particles:
        """The particles with the given codes as their next scale."""
        with torch.no_grad():
            added = self.tokenizer.quantize.contribution(indices, particles.scale, self.scales.grids)
        return particles.advanced(particles.latent + added, cache)

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "rows channels height width"], *, max_size: int | None = None) -> Float[Tensor, "rows 3 h w"]:
        """Images in [0, 1]; the decoder attends over the whole grid, so the latent is never downsampled."""
        weights = next(self.tokenizer.parameters())
        return (self.tokenizer.decode(latent.to(weights.dtype)).float() + 1) / 2

    def advance_flops(self, scale: int, condition: VARCondition) -> float:
        """Floating-point operations of one particle at one scale, both branches; no cross-attention."""
        config, tokens = self.transformer.config, self.scales.lengths[scale]
        context = self.scales.offsets[scale] + tokens
        per_token = config.depth * (12 * config.width**2 + 2 * config.width * context) + config.width * (
            config.num_codes + config.code_width
        )
        return 4.0 * tokens * per_token

    def decode_flops(self, *, max_size: int | None = None) -> float:
        """Floating-point operations of decoding one image."""
        return decoder_flops(self.tokenizer.config, self.scales.grids[-1])

    def cache_bytes(self, scale: int) -> int:
        """Bytes of one particle's cache after `scale`, both branches."""
        tokens = self.scales.offsets[scale] + self.scales.lengths[scale]
        return 2 * 2 * self.transformer.config.depth * tokens * self.transformer.config.width * self.transformer.pos_start.element_size()
