"""The contract of keyframe models, which map (caption, frame) pairs to velocities, and the types that they take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

ATTENTIONS = ("joint", "causal", "extend")

# Keys and values of the memory tokens, (batch, heads, tokens, width) each, one pair per single-stream block.
KeysValues = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Encoded captions, the input of a keyframe model, with any leading dimensions.

    Attributes:
        tokens: features of a frozen encoder (*batch, tokens, width), or token ids for an encoder that is trained with the model.
        mask: true on valid tokens; None if all are valid.
        pooled: one vector per caption from a second encoder; None without one.
    """

    tokens: Shaped[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch tokens"] | None = None
    pooled: Float[Tensor, "*batch width"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: object) -> "CaptionEmbeddings":
        """The captions at an index into the leading dimensions."""
        return self.map(lambda tensor: tensor[index])  # type: ignore[index]  # any index that torch accepts

    def map(self, change: Callable[[Tensor], Tensor]) -> "CaptionEmbeddings":
        """Applies one function to all tensors."""
        return CaptionEmbeddings(
            change(self.tokens), None if self.mask is None else change(self.mask), None if self.pooled is None else change(self.pooled)
        )

    def to(self, device: torch.device) -> "CaptionEmbeddings":
        """The same captions on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def stack(parts: "Sequence[CaptionEmbeddings]") -> "CaptionEmbeddings":
        """Stacks captions of one model along a new leading dimension."""
        masks = [part.mask for part in parts if part.mask is not None]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tokens = torch.stack([part.tokens for part in parts])
        return CaptionEmbeddings(tokens, torch.stack(masks) if masks else None, torch.stack(pooled) if pooled else None)


@dataclass(frozen=True)
class Frames:
    """A group: frames of one size in a batch of sequences, each with its caption.

    A sequence consists of the frames of all its groups, in order.

    Attributes:
        latents: latents at the noise levels `timesteps`.
        captions: from `KeyframeModel.encode_captions`, (batch, frames, ...).
        timesteps: 0 for clean frames, 1 for noise.
        position_ids: rotary positions of the pairs: 0 for a target and 1, 2, ... for the ranks of its memory, or frame
            times where there is no memory.
        is_memory: whether the frames are context only. Under `extend` attention memory frames attend to the memory,
            every other frame attends to the memory and itself.
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
        """A selection of the frames, the same in every sequence."""
        return self._map(lambda tensor: tensor[:, frames])

    def flip(self) -> "Frames":
        """The frames of every sequence in reverse order."""
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
    """Encoder and decoder between pixels and latents: the identity for pixel-space models, a VAE for FLUX.

    Attributes:
        channels: channels of a latent.
        pixels_per_token: side of a token of the model, in pixels.
    """

    channels: int
    pixels_per_token: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of images of `height` x `width` pixels."""
        ...

    def encode(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames channels rows columns"]:
        """Latents, on the device of the space, of images in [-1, 1] on any device."""
        ...

    def decode(self, latents: Float[Tensor, "frames channels rows columns"]) -> Float[Tensor, "frames 3 height width"]:
        """Images, in [-1, 1] up to overshoot of the model."""
        ...


class PixelSpace:
    """The latent space of pixel-space models: the identity.

    Args:
        pixels_per_token: side of a token, in pixels.
    """

    channels = 3

    def __init__(self, pixels_per_token: int) -> None:
        self.pixels_per_token = pixels_per_token

    def size(self, height: int, width: int) -> tuple[int, int]:
        """`height` and `width`, unchanged."""
        return height, width

    def encode(self, images: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 height width"]:
        """The images, unchanged."""
        return images

    def decode(self, latents: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 height width"]:
        """The latents, unchanged."""
        return latents


class CaptionEncoder(Protocol):
    """A caption encoder that is trained together with a model; a module.

    Attributes:
        num_tokens: tokens per caption.
    """

    num_tokens: int

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "captions fields"]:
        """Captions as token ids, on the CPU.

        Raises:
            UserError: if a caption cannot be parsed.
        """
        ...

    def __call__(self, ids: Int[Tensor, "*batch fields"]) -> Float[Tensor, "*batch tokens width"]:
        """Features of token ids, with gradient."""
        ...


class KeyframeModel(Protocol):
    """A multimodal diffusion transformer over pairs: double-stream blocks are local, single-stream blocks attend across pairs.

    It does not depend on the grammar of captions: the encoder is an argument.

    Source: Captain Cinema (arXiv 2507.18634), section 3.2.

    Attributes:
        space: its latent space.
        text_tokens: tokens per caption, for memory budgets.
    """

    space: LatentSpace
    text_tokens: int

    def encode_captions(self, captions: Sequence[str]) -> CaptionEmbeddings:
        """Encoded captions, on the device of the model.

        Raises:
            UserError: if a caption cannot be parsed.
        """
        ...

    def remember(self, frames: Sequence[Frames]) -> KeysValues:
        """Keys and values of a memory for `velocity`; they are the same at every sampling step.

        Args:
            frames: memory groups only (`is_memory`).
        """
        ...

    def sigmas(self, num_steps: int, num_tokens: int) -> Float[Tensor, " times"]:
        """The sampling times of the model's schedule: `num_steps + 1` values from 1 to 0.

        Args:
            num_steps: sampling steps.
            num_tokens: image tokens per frame; some schedules depend on it.
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
            frames: groups of the sequence.
            attention: `joint` (a pair attends to all pairs), `causal` (to itself and earlier pairs) or `extend` (to the
                memory and itself).
            memory: from `remember`, replaces the memory groups; under `extend` attention only.
            guidance: scale of classifier-free or embedded guidance; None for the default of the model, if any.
            negative: negative captions, in the shape of the captions of the targets.

        Raises:
            UserError: if guidance is requested and the model was trained without it.
        """
        ...


class TrainableKeyframeModel(KeyframeModel, Protocol):
    """A keyframe model that can be trained; a module."""

    def __call__(self, frames: Sequence[Frames], *, attention: str = "extend") -> list[Tensor]:
        """The predicted data of every frame, in the shape of its latents, with gradient."""
        ...


def encode_frames(
    space: LatentSpace, frames: Float[Tensor, "batch frames 3 height width"]
) -> Float[Tensor, "batch frames channels rows columns"]:
    """Latents of a batch of sequences of images."""
    return space.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
