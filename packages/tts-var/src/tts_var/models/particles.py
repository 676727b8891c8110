"""The state of a search: unfinished pictures with their caches and lineages, moved all at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

KeyValues = tuple[Tensor, Tensor]


@dataclass
class Particles:
    """Unfinished pictures of several prompts; rows are prompt-major, every prompt has equally many.

    Attributes:
        num_prompts: prompts in the batch.
        scale: the next scale to generate.
        latent: running sum of codes, (rows, channels, height, width) of the last grid.
        cache: per block the keys and values of all tokens up to now, (branches, rows, heads, tokens, head width);
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
        """Particles alive per prompt."""
        return len(self.latent) // self.num_prompts

    def select(self, indices: Int[Tensor, "prompts kept"]) -> "Particles":
        """The particles that live on: for each prompt the slots given, in that order, repeats allowed."""
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
    """Rows of a prompt-major batch from slots within each prompt."""
    return (indices + per_prompt * torch.arange(len(indices), device=indices.device)[:, None]).flatten()
