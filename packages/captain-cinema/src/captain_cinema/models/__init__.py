"""The contract of a keyframe model: groups of (caption, frame) pairs in, a velocity for every frame out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Shaped
from torch import Tensor

ATTENTIONS = ("joint", "causal", "extend")

# Keys and values of a memory's tokens, (batch, heads, tokens, width) each, of every block that looks at them.
KeysValues = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FrameGroup:
    """Frames of one size in a batch of sequences, each with its caption.

    A sequence consists of the frames of all its groups, in order.

    Attributes:
        latents: what the model denoises, at `timesteps`.
        captions: in the form that `encode_captions` of the model gives them.
        timesteps: 0 for clean frames, 1 for noise.
        slots: places of the pairs on the axis of pairs: 0 for a target and 1, 2, ... for the ranks of its memory, or
            places in time where there is no memory.
        is_memory: whether the frames are only looked at. Under `extend` attention memory sees memory alone, every
            other frame sees the memory and itself.
    """

    latents: Float[Tensor, "batch frames channels height width"]
    captions: Shaped[Tensor, "batch frames ..."]
    timesteps: Float[Tensor, "batch frames"]
    slots: Float[Tensor, "batch frames"]
    is_memory: bool = False


class KeyframeModel(Protocol):
    """A multimodal diffusion transformer over pairs: double-stream blocks are local, single-stream blocks join the pairs.

    Source: Captain Cinema (arXiv 2507.18634), section 3.2.

    Attributes:
        patch: pixels per side of a token.
        text_tokens: tokens of a caption.
    """

    patch: int
    text_tokens: int

    def encode_captions(self, captions: Sequence[str]) -> Shaped[Tensor, "captions ..."]:
        """Captions in the form that the model reads: embeddings of a frozen encoder, or indices for its own.

        Raises:
            UserError: if a caption cannot be read.
        """
        ...

    def remember(self, groups: Sequence[FrameGroup]) -> KeysValues:
        """What later calls of `velocity` need of a memory; it is the same at every step of a sampler.

        Args:
            groups: with `is_memory`, without targets.
        """
        ...

    def velocity(
        self, groups: Sequence[FrameGroup], *, attention: str = "extend", memory: KeysValues | None = None
    ) -> list[Float[Tensor, "..."]]:
        """The velocity of every frame, one tensor per group in the shape of its latents.

        Args:
            groups: the sequence.
            attention: `joint` (every pair sees all), `causal` (itself and earlier ones) or `extend` (the memory and
                itself).
            memory: from `remember`, in place of the memory's groups; under `extend` attention only.
        """
        ...
