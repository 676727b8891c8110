"""Next-scale image models and their contract for the search."""

from collections.abc import Sequence
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from tts_var.models.particles import Particles
from tts_var.models.random_streams import RandomStreams
from tts_var.numerics.scales import ScaleTable


class NextScaleModel(Protocol):
    """Contract of every next-scale family.

    Attributes:
        scales: token grids, coarse to fine.
        image_size: (height, width) of a finished image in pixels.
    """

    scales: ScaleTable

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a finished image in pixels."""
        ...

    def check(self, prompts: Sequence[Any]) -> None:
        """Validates prompts without encoding any of them.

        Raises:
            UserError: if the model cannot encode a prompt; names the first one.
        """
        ...

    def encode(self, prompts: Sequence[Any]) -> Any:
        """The condition of a batch of prompts (texts, or class numbers), computed once per prompt."""
        ...

    def start(self, condition: Any, num_particles: int) -> Particles:
        """Particles before the first scale, `num_particles` per prompt."""
        ...

    def advance(self, particles: Particles, condition: Any, streams: RandomStreams) -> Particles:
        """The particles after their next scale."""
        ...

    def decode(self, latent: Float[Tensor, "rows channels height width"], *, max_size: int | None = None) -> Float[Tensor, "rows 3 h w"]:
        """Images in [0, 1] of finished or unfinished latents.

        Args:
            latent: running sums of codes.
            max_size: longest side of the scorer's input in pixels; a family may downsample a larger latent before decoding.
        """
        ...

    def advance_flops(self, scale: int, condition: Any) -> float:
        """Floating-point operations of one particle at one scale, all guidance branches; a multiply-add counts as two."""
        ...

    def decode_flops(self, *, max_size: int | None = None) -> float:
        """Floating-point operations of decoding one image."""
        ...

    def cache_bytes(self, scale: int) -> int:
        """Bytes of one particle's cache after `scale`."""
        ...
