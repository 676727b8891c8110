"""A small multimodal diffusion transformer with hybrid attention, in pixel space: the blocks of FLUX at laptop size.

Shapes: B batch, F frames (pairs) of a group, N tokens of a pair (T text and P image tokens), C width, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from captain_cinema.models import ATTENTIONS, CaptionEmbeddings, CaptionEncoder, Frames, KeysValues, LatentSpace, PixelSpace
from captain_cinema.numerics.flow import sampling_timesteps, velocity_of
from captain_cinema.numerics.masks import causal_mask, local_mask, pair_of_tokens, shared_memory_mask
from triptych.errors import UserError

_TIME_CHANNELS = 128
_POSITION_OCTAVES = 4
_DATA_FLOOR = 0.05


@dataclass
class MMDiTConfig:
    """Sizes of a `SmallMMDiT`.

    Attributes:
        width: channels of a token.
        num_heads: attention heads.
        num_double: double-stream blocks.
        num_single: single-stream blocks.
        image_size: side of a full-resolution frame, in pixels.
        patch: side of a token, in pixels.
        moments: whether position ids modulate the blocks, as the frames of a clip require, whose position ids are times.

    Raises:
        UserError: if a size is out of range or not divisible as required.
    """

    width: int = 128
    num_heads: int = 4
    num_double: int = 1
    num_single: int = 4
    image_size: int = 64
    patch: int = 8
    moments: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "image_size", "patch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.width % self.num_heads or (self.width // self.num_heads) % 8:
            raise UserError(f"width {self.width} with {self.num_heads} heads: the head width must be a multiple of 8")
        if self.image_size % self.patch:
            raise UserError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        if min(self.num_double, self.num_single) < 0 or self.num_double + self.num_single < 1:
            raise UserError(f"{self.num_double} double-stream and {self.num_single} single-stream blocks: give at least one block")


class SmallMMDiT(nn.Module):
    """A `KeyframeModel` in pixel space that predicts the data and derives the velocity from it.

    Args:
        config: sizes.
        encoder: caption encoder of the same width, trained with the model; a module.
        shift: shift of the sampling times towards noise; 1 for none.
    """

    def __init__(self, config: MMDiTConfig, encoder: CaptionEncoder, *, shift: float = 1.0) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        width, patch = config.width, config.patch
        self.config = config
        self.patch = patch
        self.space: LatentSpace = PixelSpace(patch)
        self.encoder: nn.Module = encoder
        self.text_tokens = encoder.num_tokens
        self._tokenize = encoder.tokenize
        self._shift = shift
        self.patches = nn.Linear(3 * patch * patch, width)
        # Rotary angles encode relative positions only; image tokens also need their absolute position in the frame.
        self.places = nn.Linear(4 * _POSITION_OCTAVES, width, bias=False)
        self.text = nn.Linear(width, width)
        self.time = nn.Sequential(nn.Linear(_TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(width, width)  # the pooled caption is added to the time modulation, as in FLUX
        # The action of a clip depends on absolute time: its position ids modulate the blocks, besides their rotary angles.
        self.moment = nn.Linear(_TIME_CHANNELS, width) if config.moments else None
        # One projection of the modulation, shared by all blocks of a kind; each block adds its own table.
        self.double_modulation = nn.Linear(width, 6 * width)
        self.single_modulation = nn.Linear(width, 3 * width)
        self.double_blocks = nn.ModuleList(_DoubleBlock(width, config.num_heads) for _ in range(config.num_double))
        self.single_blocks = nn.ModuleList(_SingleBlock(width, config.num_heads) for _ in range(config.num_single))
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, 3 * patch * patch)
        for layer in (self.double_modulation, self.single_modulation, self.last_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def check_start(self, other: "SmallMMDiT") -> None:
        """Raises unless `start_from` can load the weights of `other`.

        Raises:
            UserError: if the sizes differ in more than `moments`.
        """
        if replace(other.config, moments=self.config.moments) != self.config:
            raise UserError(f"a model of {self.config} cannot start from a model of {other.config}: give both the same sizes")

    def start_from(self, other: "SmallMMDiT") -> None:
        """Loads the weights of a model with fewer inputs, such as the keyframe model into a video model.

        Weights that `other` lacks (actions, moments) keep their initialisation: from 0 they train too slowly to have an effect.

        Raises:
            UserError: if the sizes differ.
        """
        self.check_start(other)
        self.load_state_dict(other.state_dict(), strict=False)

    def encode_captions(self, captions: Sequence[str]) -> CaptionEmbeddings:
        """Token ids, which `encoder` embeds in the forward pass; see `KeyframeModel`."""
        return CaptionEmbeddings(self._tokenize(captions).to(self.head.weight.device))

    def sigmas(self, num_steps: int, num_tokens: int) -> Float[Tensor, " times"]:
        """Evenly spaced times with a constant shift, independent of `num_tokens`; see `KeyframeModel`."""
        return sampling_timesteps(num_steps, shift=self._shift)

    def remember(self, frames: Sequence[Frames]) -> KeysValues:
        """Keys and values of a memory; see `KeyframeModel`.

        Raises:
            UserError: if the side of a frame is not a multiple of `patch`.
        """
        assert all(group.is_memory for group in frames)
        _, keys_values = self._run(frames, "extend", masked=False, memory=None)
        return keys_values

    def velocity(
        self,
        frames: Sequence[Frames],
        *,
        attention: str = "extend",
        memory: KeysValues | None = None,
        guidance: float | None = None,
        negative: CaptionEmbeddings | None = None,
    ) -> list[Float[Tensor, "..."]]:
        """The velocity of every frame; see `KeyframeModel`."""
        if guidance is not None or negative is not None:
            raise UserError("this model was trained without guidance: leave guidance and negative captions unset")
        predicted = self.predict(frames, attention=attention, memory=memory)
        return [
            velocity_of(group.latents.flatten(0, 1), data.flatten(0, 1), group.timesteps.flatten(), floor=_DATA_FLOOR).view_as(data)
            for group, data in zip(frames, predicted, strict=True)
        ]

    def predict(
        self, frames: Sequence[Frames], *, attention: str = "extend", memory: KeysValues | None = None, masked: bool = False
    ) -> list[Float[Tensor, "..."]]:
        """The predicted data of every frame, in the shape of its latents.

        Args:
            frames: groups of the sequence.
            attention: see `KeyframeModel.velocity`.
            memory: see `KeyframeModel.velocity`.
            masked: run on one packed sequence with dense masks instead of folding pairs into the batch. Slower, equal up to
                rounding; the reference in tests.

        Raises:
            UserError: if the attention is unknown, or the side of a frame is not a multiple of `patch`.
        """
        if attention not in ATTENTIONS:
            raise UserError(f"attention is '{attention}': choose one of {', '.join(ATTENTIONS)}")
        assert memory is None or (attention == "extend" and not masked)
        streams, _ = self._run(frames, attention, masked=masked, memory=memory)
        return [self._unembed(stream, group) for stream, group in zip(streams, frames, strict=True)]

    def _run(
        self, frames: Sequence[Frames], attention: str, *, masked: bool, memory: KeysValues | None
    ) -> "tuple[list[_Stream], KeysValues]":
        streams = [self._embed(group) for group in frames]
        # Blocks take and return plain tensors, in which strategies find everything that the backward pass of a block depends on.
        pairs = [(stream.text, stream.image) for stream in streams]
        modulations = [self.double_modulation(stream.time) for stream in streams]
        for block in self.double_blocks:
            pairs = block(streams, pairs, modulations, masked)
        joined = [torch.cat(pair, dim=2) for pair in pairs]  # (B, F, T + P, C): text tokens first
        modulations = [self.single_modulation(stream.time) for stream in streams]
        keys_values = []
        for index, block in enumerate(self.single_blocks):
            joined, kept = block(streams, joined, modulations, attention, masked, None if memory is None else memory[index])
            keys_values.append(kept)
        for stream, tokens in zip(streams, joined, strict=True):
            stream.joined = tokens
        return streams, keys_values

    def forward(self, frames: Sequence[Frames], *, attention: str = "extend") -> list[Float[Tensor, "..."]]:
        """`predict` as the forward pass, which strategies wrap."""
        return self.predict(frames, attention=attention)

    def _embed(self, group: Frames) -> "_Stream":
        batch, frames, channels, height, width = group.latents.shape
        if height % self.patch or width % self.patch:
            raise UserError(f"a frame has {height} x {width} pixels: both sides must be multiples of {self.patch}")
        rows, columns = height // self.patch, width // self.patch
        # Patches: (B, F, channels, rows, p, columns, p) -> (B, F, rows, columns, channels, p, p) -> (B, F, P, channels * p * p).
        cut = group.latents.reshape(batch, frames, channels, rows, self.patch, columns, self.patch)
        tokens = self.patches(cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(2, 3).flatten(3))
        full = self.config.image_size // self.patch
        # Token centres (P, 2) in units of full-resolution tokens; text tokens are at (0, 0).
        y, x = _token_centres(rows, full), _token_centres(columns, full)
        grid = torch.stack((y[:, None].expand(rows, columns), x[None].expand(rows, columns)), dim=-1).flatten(0, 1)
        centres = torch.cat((torch.zeros(self.text_tokens, 2), grid)).to(tokens)
        text = self.encoder(group.captions.tokens)  # B F T C
        modulated = self.time(_sinusoid(group.timesteps)) + self.pooled(text.sum(-2))
        if self.moment is not None:
            modulated = modulated + self.moment(_sinusoid(group.position_ids.to(tokens) / 1000))
        return _Stream(
            text=self.text(text),
            image=tokens + self.places(_waves((grid + 0.5) / full).to(tokens)),
            time=functional.silu(modulated),
            position_ids=group.position_ids.to(tokens),
            centres=centres,
            head_width=self.config.width // self.config.num_heads,
            is_memory=group.is_memory,
        )

    def _unembed(self, stream: "_Stream", group: Frames) -> Tensor:
        batch, frames, channels, height, width = group.latents.shape
        shift, scale = self.last_modulation(stream.time)[:, :, None].chunk(2, dim=-1)
        # The inverse of the patches in `_embed`: (B, F, P, p * p * channels) -> (B, F, channels, height, width).
        patches = self.head(_norm(stream.joined[:, :, self.text_tokens :]) * (1 + scale) + shift)
        rows, columns = height // self.patch, width // self.patch
        cut = patches.view(batch, frames, rows, columns, channels, self.patch, self.patch)
        return cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(group.latents.shape)


class _Stream:
    """The tokens of one group before and after the blocks, with its modulation and rotary angles."""

    def __init__(
        self, *, text: Tensor, image: Tensor, time: Tensor, position_ids: Tensor, centres: Tensor, head_width: int, is_memory: bool
    ) -> None:
        self.text = text  # B F T C
        self.image = image  # B F P C
        self.time = time  # B F C
        self.is_memory = is_memory
        self.joined = image
        # Double-stream blocks use position 0 for every pair, as in a single-image model; single-stream blocks use the position ids.
        self.local_angles = _angles(torch.zeros_like(position_ids[:1, :1]), centres, head_width)
        self.angles = _angles(position_ids, centres, head_width)


Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, B F H N D each
Pair = tuple[Tensor, Tensor]  # text tokens B F T C, image tokens B F P C


class _Attention(nn.Module):
    """Splits fused projections into heads, with normalised queries and keys and rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_scale = nn.Parameter(torch.ones(width // num_heads))
        self.key_scale = nn.Parameter(torch.ones(width // num_heads))

    def heads(self, qkv: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, F, H, N, D) of fused projections (B, F, N, 3 C)."""
        # (B, F, N, 3 C) -> (B, F, N, 3, H, D) -> (3, B, F, N, H, D) -> (3, B, F, H, N, D)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)
        q, k = _norm_heads(q) * self.query_scale, _norm_heads(k) * self.key_scale
        return _rotate(q, angles), _rotate(k, angles), v


class _DoubleBlock(nn.Module):
    """Separate weights for text and image tokens, joint attention within each pair."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(_Attention(width, num_heads) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)) for _ in range(2)
        )
        self.table = nn.Parameter(_gates(6, width).repeat(2, 1, 1))

    def forward(self, streams: Sequence[_Stream], pairs: Sequence[Pair], modulations: Sequence[Tensor], masked: bool) -> list[Pair]:
        """Text and image tokens of every group after the block.

        Without `masked` the pairs are folded into the batch; with it they form one packed sequence under a block-diagonal mask.
        """
        projected = [
            self._projected(stream, pair, modulation) for stream, pair, modulation in zip(streams, pairs, modulations, strict=True)
        ]
        heads = [own for own, _ in projected]
        mixed = _packed(streams, heads, "local") if masked else [_attend(*own) for own in heads]
        return [self._finish(pair, own, parts) for pair, own, (_, parts) in zip(pairs, mixed, projected, strict=True)]

    def _projected(self, stream: _Stream, pair: Pair, modulation: Tensor) -> "tuple[Heads, list[tuple[Tensor, ...]]]":
        # Queries, keys and values (B, F, H, T + P, D) of both streams, text first, and the six modulation tensors of each.
        found, parts = [], []
        count = pair[0].shape[2]
        cosine, sine = stream.local_angles
        for index, tokens in enumerate(pair):
            gates = (modulation.unflatten(-1, (6, -1)) + self.table[index])[:, :, :, None].unbind(2)  # six tensors B F 1 C
            span = slice(None, count) if index == 0 else slice(count, None)
            angles = cosine[..., span, :], sine[..., span, :]
            attention = self.attention[index]
            assert isinstance(attention, _Attention)
            found.append(attention.heads(self.qkv[index](_norm(tokens) * (1 + gates[1]) + gates[0]), angles))
            parts.append(gates)
        q, k, v = (torch.cat(kind, dim=-2) for kind in zip(*found, strict=True))
        return (q, k, v), parts

    def _finish(self, pair: Pair, mixed: Tensor, parts: Sequence[tuple[Tensor, ...]]) -> Pair:
        # mixed (B, F, T + P, C) is split back into text and image tokens; residual attention, then residual feed-forward.
        count = pair[0].shape[2]
        updated = []
        for index, (tokens, own) in enumerate(zip(pair, mixed.split((count, mixed.shape[2] - count), dim=2), strict=True)):
            _, _, gate, shift, scale, mlp_gate = parts[index]
            tokens = tokens + gate * self.out[index](own)
            updated.append(tokens + mlp_gate * self.mlp[index](_norm(tokens) * (1 + scale) + shift))
        return updated[0], updated[1]


class _SingleBlock(nn.Module):
    """Parallel attention and feed-forward over the tokens of all pairs."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, num_heads)
        self.width = width
        self.project = nn.Linear(width, 7 * width)  # queries, keys, values (3 C) and feed-forward (4 C)
        self.out = nn.Linear(5 * width, width)
        self.table = nn.Parameter(_gates(3, width))

    def forward(
        self,
        streams: Sequence[_Stream],
        joined: Sequence[Tensor],
        modulations: Sequence[Tensor],
        attention: str,
        masked: bool,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """The joined tokens of all groups after the block, and keys and values of the memory."""
        # Per group: heads 3 x (B, F, H, N, D), feed-forward (B, F, N, 4 C), gate (B, F, 1, C); one output projection of 5 C.
        heads, hidden, gates = [], [], []
        for stream, tokens, modulation in zip(streams, joined, modulations, strict=True):
            shift, scale, gate = (modulation.unflatten(-1, (3, -1)) + self.table)[:, :, :, None].unbind(2)
            qkv, feed = self.project(_norm(tokens) * (1 + scale) + shift).split((3 * self.width, 4 * self.width), dim=-1)
            heads.append(self.attention.heads(qkv, stream.angles))
            hidden.append(functional.gelu(feed, approximate="tanh"))
            gates.append(gate)
        if attention == "extend" and not masked:
            mixed, past = _extend(streams, heads, past)
        else:
            mixed = _packed(streams, heads, attention)
        updated = [
            tokens + gate * self.out(torch.cat((own, feed), dim=-1))
            for tokens, own, feed, gate in zip(joined, mixed, hidden, gates, strict=True)
        ]
        batch, _, num_heads, _, width = heads[0][1].shape
        none = heads[0][1].new_zeros(batch, num_heads, 0, width)
        return updated, (none, none) if past is None else past


def _packed(streams: Sequence[_Stream], heads: Sequence[Heads], attention: str) -> list[Tensor]:
    """Attention over one packed sequence: all pairs of all groups, in order."""
    # (B, F, H, N, D) of every group -> (B, H, sum of F * N, D), split back into (B, F, N, C) at the end.
    shapes = [(q.shape[1], q.shape[3]) for q, _, _ in heads]
    q, k, v = (torch.cat([part.transpose(1, 2).flatten(2, 3) for part in parts], dim=2) for parts in zip(*heads, strict=True))
    pairs = pair_of_tokens([tokens for frames, tokens in shapes for _ in range(frames)])
    if attention == "joint":
        mask = None
    elif attention == "extend":
        is_memory = [stream.is_memory for stream in streams]
        assert is_memory == sorted(is_memory, reverse=True), "memory groups must come first"
        mask = shared_memory_mask(pairs, sum(frames for (frames, _), memory in zip(shapes, is_memory, strict=True) if memory))
    else:
        mask = causal_mask(pairs) if attention == "causal" else local_mask(pairs)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.device))
    split = mixed.transpose(1, 2).flatten(2).split([frames * tokens for frames, tokens in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(split, shapes, strict=True)]


def _extend(
    streams: Sequence[_Stream], heads: Sequence[Heads], past: tuple[Tensor, Tensor] | None
) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
    """Attention without a mask: memory tokens over the memory, every other pair over the memory and itself."""
    # Memory groups are packed into one sequence (B, H, M, D) with M the sum of F * N; its keys and values are prepended to
    # those of every target frame (B, F, H, N, D), so that no mask is needed and frames stay rows of the batch.
    memory = [own for stream, own in zip(streams, heads, strict=True) if stream.is_memory]
    parts: list[Tensor] = []
    if memory:
        q, *past_pair = (torch.cat([part.transpose(1, 2).flatten(2, 3) for part in kind], dim=2) for kind in zip(*memory, strict=True))
        past = past_pair[0], past_pair[1]
        sizes = [part[0].shape[1] * part[0].shape[3] for part in memory]
        parts = list(functional.scaled_dot_product_attention(q, *past).transpose(1, 2).flatten(2).split(sizes, dim=1))
    mixed = []
    for stream, (q, k, v) in zip(streams, heads, strict=True):
        if stream.is_memory:
            mixed.append(parts.pop(0).unflatten(1, (q.shape[1], q.shape[3])))
            continue
        if past is not None:
            k, v = (
                torch.cat((kept[:, None].expand(-1, q.shape[1], -1, -1, -1), own), dim=3) for kept, own in zip(past, (k, v), strict=True)
            )
        mixed.append(_attend(q, k, v))
    return mixed, past


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch frames tokens channels"]:
    """Attention within every frame of (B, F, H, N, D); frames are folded into the batch, as the fused kernels require 4 dimensions."""
    rows = functional.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return rows.transpose(1, 2).flatten(2).unflatten(0, q.shape[:2])


def _norm(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def _norm_heads(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def _gates(count: int, width: int) -> Tensor:
    """A table with shifts and scales at 0 and gates at 1, so that an untrained block is an ordinary pre-norm block."""
    table = torch.zeros(count, width)
    table[2::3] = 1.0
    return table


def _token_centres(count: int, full: int) -> Float[Tensor, " tokens"]:
    """Centres of `count` tokens along an axis, in units of full-resolution tokens."""
    return (torch.arange(count) + 0.5) * (full / count) - 0.5


def _sinusoid(timesteps: Tensor) -> Tensor:
    half = _TIME_CHANNELS // 2
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half) / half).to(timesteps)
    angles = 1000.0 * timesteps[..., None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _waves(centres: Float[Tensor, "tokens 2"]) -> Float[Tensor, "tokens channels"]:
    """Sines and cosines, an octave apart, of token centres in units of the frame side."""
    angles = (centres[:, :, None] * torch.pi * 2.0 ** torch.arange(_POSITION_OCTAVES)).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _angles(position_ids: Float[Tensor, "batch frames"], centres: Float[Tensor, "tokens 2"], head_width: int) -> tuple[Tensor, Tensor]:
    """Rotary cosines and sines (B, F, 1, N, D / 2): a quarter of the channel pairs rotate by position id, the rest by y and x."""
    pairs = head_width // 2
    for_position = pairs // 4
    for_y = (pairs - for_position) // 2
    batch, frames = position_ids.shape
    positions = [
        position_ids[:, :, None].expand(batch, frames, len(centres)),
        centres[:, 0].expand(batch, frames, -1),
        centres[:, 1].expand(batch, frames, -1),
    ]
    counts = (for_position, for_y, pairs - for_position - for_y)
    angles = torch.cat(
        [
            position[..., None] * 10000.0 ** (-torch.arange(count).to(centres) / count)
            for position, count in zip(positions, counts, strict=True)
        ],
        dim=-1,
    )[:, :, None]
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1).to(x)
