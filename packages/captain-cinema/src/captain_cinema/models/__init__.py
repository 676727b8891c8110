"""The contract of a keyframe model: frames of (caption, picture) pairs in, a velocity for every frame out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

ATTENTIONS = ("joint", "causal", "extend")

# Keys and values of a memory's tokens, (batch, heads, tokens, width) each, of every block that looks at them.
KeysValues = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Captions in the form that a keyframe model reads, with any leading dimensions.

    Attributes:
        tokens: features of a frozen encoder (*batch, tokens, width), or token ids for an encoder that is part of the model.
        mask: true on valid tokens; None where all are.
        pooled: one vector per caption, of a second encoder; None where there is none.
    """

    tokens: Shaped[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch tokens"] | None = None
    pooled: Float[Tensor, "*batch width"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: object) -> "CaptionEmbeddings":
        """The captions at an index of the leading dimensions."""
        return self.map(lambda tensor: tensor[index])  # type: ignore[index]  # whatever torch takes

    def map(self, change: Callable[[Tensor], Tensor]) -> "CaptionEmbeddings":
        """The same change of all tensors."""
        return CaptionEmbeddings(
            change(self.tokens), None if self.mask is None else change(self.mask), None if self.pooled is None else change(self.pooled)
        )

    def to(self, device: torch.device) -> "CaptionEmbeddings":
        """The same captions on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def stack(parts: "Sequence[CaptionEmbeddings]") -> "CaptionEmbeddings":
        """Captions of one model along a new leading dimension."""
        masks = [part.mask for part in parts if part.mask is not None]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tokens = torch.stack([part.tokens for part in parts])
        return CaptionEmbeddings(tokens, torch.stack(masks) if masks else None, torch.stack(pooled) if pooled else None)


@dataclass(frozen=True)
class Frames:
    """Frames of one size in a batch of sequences, each with its caption; what travels through sampler, memory and model.

    A sequence consists of the frames of all its groups, in order.

    Attributes:
        latents: what the model denoises, at `timesteps`.
        captions: from `encode_captions` of the model, (batch, frames, ...).
        timesteps: 0 for clean frames, 1 for noise.
        position_ids: places of the pairs on the axis of pairs: 0 for a target and 1, 2, ... for the ranks of its memory, or
            places in time where there is no memory.
        is_memory: whether the frames are only looked at. Under `extend` attention memory sees memory alone, every
            other frame sees the memory and itself.
    """

    latents: Float[Tensor, "batch frames channels height width"]
    captions: CaptionEmbeddings
    timesteps: Float[Tensor, "batch frames"]
    position_ids: Float[Tensor, "batch frames"]
    is_memory: bool = False

    def to(self, device: torch.device) -> "Frames":
        """The same frames on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def select(self, frames: slice | Sequence[int] | Int[Tensor, " chosen"]) -> "Frames":
        """Some of the frames of every sequence."""
        return self._map(lambda tensor: tensor[:, frames])

    def flip(self) -> "Frames":
        """The frames of every sequence in the opposite order."""
        return self._map(lambda tensor: tensor.flip(1))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Frames":
        return replace(
            self,
            latents=change(self.latents),
            captions=self.captions.map(change),
            timesteps=change(self.timesteps),
            position_ids=change(self.position_ids),
        )


class LatentSpace(Protocol):
    """Between pixels and what a model denoises: the identity of a model of pixels, a VAE of FLUX.

    Attributes:
        channels: of a latent.
        pixels_per_token: pixels per side of a token of the model.
    """

    channels: int
    pixels_per_token: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of pictures of that many pixels."""
        ...

    def encode(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames channels rows columns"]:
        """Latents of pictures in [-1, 1], which may lie on any device; on the device of the space."""
        ...

    def decode(self, latents: Float[Tensor, "frames channels rows columns"]) -> Float[Tensor, "frames 3 height width"]:
        """Pictures in [-1, 1], up to what the model exceeds it by."""
        ...


class PixelSpace:
    """The space of models that denoise pixels.

    Args:
        pixels_per_token: pixels per side of a token.
    """

    channels = 3

    def __init__(self, pixels_per_token: int) -> None:
        self.pixels_per_token = pixels_per_token

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The pixels themselves."""
        return height, width

    def encode(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 height width"]:
        """The pictures themselves."""
        return images

    def decode(self, latents: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 height width"]:
        """The latents themselves."""
        return latents


class CaptionEncoder(Protocol):
    """An encoder of captions that is trained together with a model; a module.

    Attributes:
        num_tokens: tokens of every caption.
    """

    num_tokens: int

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "captions fields"]:
        """Captions as ids, on the CPU.

        Raises:
            UserError: if a caption cannot be read.
        """
        ...

    def __call__(self, ids: Int[Tensor, "*batch fields"]) -> Float[Tensor, "*batch tokens width"]:
        """Features of ids, with gradient."""
        ...


class KeyframeModel(Protocol):
    """A multimodal diffusion transformer over pairs: double-stream blocks are local, single-stream blocks join the pairs.

    It knows nothing of the grammar of captions: an encoder is handed in.

    Source: Captain Cinema (arXiv 2507.18634), section 3.2.

    Attributes:
        space: what it denoises.
        text_tokens: tokens of a caption, for budgets.
    """

    space: LatentSpace
    text_tokens: int

    def encode_captions(self, captions: Sequence[str]) -> CaptionEmbeddings:
        """Captions in the form that the model reads, on its device.

        Raises:
            UserError: if a caption cannot be read.
        """
        ...

    def remember(self, frames: Sequence[Frames]) -> KeysValues:
        """What later calls of `velocity` need of a memory; it is the same at every step of a sampler.

        Args:
            frames: with `is_memory`, without targets.
        """
        ...

    def sigmas(self, num_steps: int, num_tokens: int) -> Float[Tensor, " times"]:
        """The times of a sampler, `num_steps + 1` from 1 to 0: the schedule is the model's.

        Args:
            num_steps: steps of the sampler.
            num_tokens: image tokens of a frame, which some schedules depend on.
        """
        ...

    def velocity(
        self,
        frames: Sequence[Frames],
        *,
        attention: str = "extend",
        memory: KeysValues | None = None,
        guidance: float | None = None,
        negative: CaptionEmbeddings | None = None,
    ) -> list[Float[Tensor, "batch frames channels height width"]]:
        """The velocity of every frame, one tensor per group in the shape of its latents.

        Args:
            frames: the sequence.
            attention: `joint` (every pair sees all), `causal` (itself and earlier ones) or `extend` (the memory and
                itself).
            memory: from `remember`, in place of the memory's groups; under `extend` attention only.
            guidance: strength of classifier-free or embedded guidance; None for the model's own, or none.
            negative: captions that guidance leads away from, like those of the targets.

        Raises:
            UserError: if the model has no guidance and one is asked for.
        """
        ...


class TrainableKeyframeModel(KeyframeModel, Protocol):
    """A keyframe model that can be trained; a module."""

    def __call__(self, frames: Sequence[Frames], *, attention: str = "extend") -> list[Tensor]:
        """The data that every frame is predicted to be, in the shape of its latents, with gradient."""
        ...


def encode_frames(
    space: LatentSpace, frames: Float[Tensor, "batch frames 3 height width"]
) -> Float[Tensor, "batch frames channels rows columns"]:
    """Latents of a batch of sequences of pictures."""
    return space.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
