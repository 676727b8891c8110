"""Attention, rotary embeddings, feed-forward and adaptive norms, shared by both families.

Shapes are suffixed: G groups (guidance branches times prompts), M members of a group (particles), N tokens,
T text tokens, C width, H heads, D head width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from tts_var.models.particles import KeyValues
from tts_var.numerics.scales import ScaleTable

_MAX_LOG_SCALE = 4.605170185988092  # ln 100


def mlp_width(width: int) -> int:
    """Infinity's hidden width: 4 times the width, rounded to a multiple of 256 (half to even).

    Example:
        >>> mlp_width(2048), mlp_width(3360), mlp_width(96)
        (8192, 13312, 512)
    """
    return max(1, round(4 * width / 256)) * 256


def rotary_angles(scales: ScaleTable, head_dim: int) -> Float[Tensor, "tokens pairs"]:
    """Angles of the 2-D rotary embedding for every token of every scale, float32, (tokens, head_dim / 2).

    Coordinates are normalised to the reference grid: row r of scale i has coordinate `round(r * H / h_i)`, half to even.
    The first half of the pairs rotates by the row, the second by the column, `inv_freq_k = 10000 ** (-4k / head_dim)`.

    Source: Infinity (arXiv 2412.04431), section 3.3 and its released code.
    """
    half = head_dim // 2
    inverse = 1.0 / 10000.0 ** (torch.arange(0, half, 2).float() / half)
    rows_total, columns_total = scales.rotary_reference
    angles = []
    for height, width in scales.grids:
        rows = torch.round(torch.arange(height).float() * (rows_total / height))
        columns = torch.round(torch.arange(width).float() * (columns_total / width))
        y = (rows[:, None] * inverse)[:, None, :].expand(height, width, -1)
        x = (columns[:, None] * inverse)[None, :, :].expand(height, width, -1)
        angles.append(torch.cat((y, x), dim=-1).flatten(0, 1))
    return torch.cat(angles)


def rotate(x: Float[Tensor, "*rest tokens width"], cosine: Tensor, sine: Tensor) -> Float[Tensor, "*rest tokens width"]:
    """Interleaved channel pairs (2m, 2m + 1) rotated by the angles with the given cosine and sine."""
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1).flatten(-2)


def block_causal_mask(lengths: Sequence[int]) -> Bool[Tensor, "tokens tokens"]:
    """True where a token (row) attends to a token (column): all tokens of its own scale and of coarser scales."""
    scale = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return scale[:, None] >= scale[None, :]


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens of an image.

    With `normalise`, queries and keys have unit length and queries are scaled per head by a learned factor of at
    most 100; rotary embeddings are applied after that. Otherwise the scale is 0.25 / sqrt(head width).
    """

    zero_k_bias: Tensor

    def __init__(self, width: int, num_heads: int, *, normalise: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.normalise = normalise
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        if normalise:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, num_heads, 1, 1), 4.0).log())
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_BNC: Tensor, rotary: KeyValues | None = None, mask: Tensor | None = None, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Attention output, and the keys and values of all tokens so far.

        Args:
            x_BNC: (batch, tokens, width).
            rotary: cosine and sine of the tokens' rotary angles.
            mask: true where a token may attend; None for full attention.
            past: keys and values of coarser scales, (batch, heads, tokens, head width) each.
        """
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = functional.linear(x_BNC, self.mat_qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        q_BHND, k_BHND, v_BHND = qkv.permute(2, 0, 3, 1, 4)
        scale: float | None = 0.25 / q_BHND.shape[-1] ** 0.5
        if self.normalise:
            scale = 1.0
            q_BHND = functional.normalize(q_BHND, dim=-1, eps=1e-12) * self.scale_mul_1H11.clamp(max=_MAX_LOG_SCALE).exp()
            k_BHND = functional.normalize(k_BHND, dim=-1, eps=1e-12)
        if rotary is not None:
            # Angles are float32: rotation runs in float32, its result is cast to the dtype of the model.
            q_BHND, k_BHND = rotate(q_BHND, *rotary).to(v_BHND), rotate(k_BHND, *rotary).to(v_BHND)
        if past is not None:
            k_BHND, v_BHND = torch.cat((past[0], k_BHND), dim=2), torch.cat((past[1], v_BHND), dim=2)
        attended = functional.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=mask, scale=scale)
        return self.proj(attended.transpose(1, 2).flatten(2)), (k_BHND, v_BHND)


class CrossAttention(nn.Module):
    """Attention of image tokens to text, without positions or normalisation."""

    zero_k_bias: Tensor

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.mat_q = nn.Linear(width, width)
        self.mat_kv = nn.Linear(width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def key_values(self, memory_GTC: Tensor) -> KeyValues:
        """Keys and values of the text, (groups, heads, text tokens, head width) each."""
        joined = functional.linear(memory_GTC, self.mat_kv.weight, torch.cat((self.zero_k_bias, self.v_bias)))
        key, value = joined.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x_GNC: Tensor, text: KeyValues, mask_GT: Tensor) -> Tensor:
        """Attention of the tokens to the text; `mask_GT` is true on valid text tokens."""
        q_GHND = self.mat_q(x_GNC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(q_GHND, *text, attn_mask=mask_GT[:, None, None, :])
        result: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(.., width) to (.., width)."""
        result: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return result


class AdaptiveNormBeforeHead(nn.Module):
    """Layer norm with scale and shift (in this order) computed from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_GNC: Tensor, condition_GC: Tensor) -> Tensor:
        """(groups, tokens, width), unchanged in shape."""
        scale, shift = self.ada_lin(condition_GC)[:, None].chunk(2, dim=-1)
        return layer_norm(x_GNC) * (1 + scale) + shift


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last dimension without affine parameters, eps 1e-6."""
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole examples in training.

    Source: arXiv 1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x` with a random `rate` of the examples set to 0, the others divided by `1 - rate`."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * torch.bernoulli(torch.full((len(x), *[1] * (x.dim() - 1)), keep, device=x.device)) / keep
