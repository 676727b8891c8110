"""Next-scale image models, and the contract through which a search drives them."""

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
        scales: the grids it walks.
        image_size: (height, width) of its pictures in pixels.
    """

    scales: ScaleTable

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a finished picture in pixels."""
        ...

    def check(self, prompts: Sequence[Any]) -> None:
        """Refuses prompts that the model cannot read, without encoding any of them.

        Raises:
            UserError: naming the first such prompt.
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
        """Pictures in [0, 1] of finished or unfinished latents.

        Args:
            latent: running sums of codes.
            max_size: longest side that the judge looks at; a family may shrink a larger latent before it decodes it.
        """
        ...

    def advance_flops(self, scale: int, condition: Any) -> float:
        """Floating-point operations of one particle at one scale, all guidance branches; a multiply-add counts as two."""
        ...

    def decode_flops(self, *, max_size: int | None = None) -> float:
        """Floating-point operations of decoding one picture."""
        ...

    def cache_bytes(self, scale: int) -> int:
        """Bytes of one particle's cache after `scale`."""
        ...
