"""Search state: unfinished images with their caches and lineages, selected and extended together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

KeyValues = tuple[Tensor, Tensor]


@dataclass
class Particles:
    """Unfinished images of several prompts; rows are prompt-major, with equally many per prompt.

    Attributes:
        num_prompts: prompts in the batch.
        scale: the next scale to generate.
        latent: running sum of codes, (rows, channels, height, width) of the last grid.
        cache: keys and values of all tokens so far per block, (branches, rows, heads, tokens, head width);
            branches are conditional and unconditional.
        lineage: slot of the ancestor at every scale generated so far, (rows, scale).
    """

    num_prompts: int
    scale: int
    latent: Float[Tensor, "rows channels height width"]
    cache: list[KeyValues]
    lineage: Int[Tensor, "rows scales"]

    @property
    def per_prompt(self) -> int:
        """Number of particles per prompt."""
        return len(self.latent) // self.num_prompts

    def select(self, indices: Int[Tensor, "prompts kept"]) -> "Particles":
        """The surviving particles: for each prompt the given slots, in that order, repeats allowed."""
        rows = flat_rows(indices, self.per_prompt).to(self.latent.device)
        return Particles(
            num_prompts=self.num_prompts,
            scale=self.scale,
            latent=self.latent[rows],
            cache=[(key[:, rows], value[:, rows]) for key, value in self.cache],
            lineage=self.lineage[rows.to(self.lineage.device)],
        )

    def advanced(self, latent: Tensor, cache: list[KeyValues]) -> "Particles":
        """The particles after one more scale: each slot becomes the ancestor at that scale."""
        slots = torch.arange(self.per_prompt).repeat(self.num_prompts)[:, None]
        return Particles(self.num_prompts, self.scale + 1, latent, cache, torch.cat((self.lineage, slots), dim=1))


def flat_rows(indices: Int[Tensor, "prompts kept"], per_prompt: int) -> Int[Tensor, " rows"]:
    """Rows of a prompt-major batch for slots within each prompt."""
    return (indices + per_prompt * torch.arange(len(indices), device=indices.device)[:, None]).flatten()
