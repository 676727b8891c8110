"""From logits to draws: guidance, top-k, top-p, and random streams that do not depend on batching."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.seeding import generator


def guided_logits(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], guidance: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: `g z_cond + (1 - g) z_uncond`; 1 is no guidance.

    Source: arXiv 2207.12598, equation 6, in the parametrisation of Infinity.
    """
    return guidance * conditional + (1.0 - guidance) * unconditional


def filter_logits(logits: Float[Tensor, "*rest classes"], *, top_k: int = 0, top_p: float = 0.0) -> Float[Tensor, "*rest classes"]:
    """Logits with the classes outside top-k and then top-p at minus infinity.

    A class goes if the classes up to it, from the least probable on, hold at most `1 - top_p`; the most probable
    always stays.

    Args:
        logits: unnormalised log-probabilities.
        top_k: classes that stay; 0 keeps all.
        top_p: probability mass that stays; 0 keeps all.
    """
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if 0 < top_p < 1:
        ascending, order = logits.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[..., -1] = False
        logits = logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return logits


class Draws(Protocol):
    """Where the randomness of a sampling run comes from."""

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """One class per row and draw; rows are prompts times particles, prompt-major."""
        ...


class KeyedDraws:
    """Draws keyed by prompt, particle and scale: no row knows what else is in the batch.

    Args:
        prompt_seeds: one seed per prompt of the batch.
    """

    def __init__(self, prompt_seeds: Sequence[int]) -> None:
        self._prompt_seeds = list(prompt_seeds)

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """Inverts the cumulative distribution at one uniform number per draw."""
        rows, draws, _ = probabilities.shape
        per_prompt = rows // len(self._prompt_seeds)
        uniform = torch.stack(
            [
                torch.rand(draws, generator=generator(seed, "draw", particle, scale))
                for seed in self._prompt_seeds
                for particle in range(per_prompt)
            ]
        ).to(probabilities.device)
        below = probabilities.cumsum(-1)[..., :-1] <= uniform[..., None]
        # A class of probability 0 at the end must not be chosen because rounding left the sum below the number.
        chosen = below.sum(-1)
        last = (probabilities > 0).int().mul(torch.arange(probabilities.shape[-1], device=probabilities.device)).amax(-1)
        return torch.minimum(chosen, last)


class LineageDraws:
    """Draws that replay one particle per prompt: the slots that its ancestors held, scale by scale.

    Args:
        prompt_seeds: one seed per prompt of the batch.
        slots: for each prompt the slot of the ancestor at every scale.
    """

    def __init__(self, prompt_seeds: Sequence[int], slots: Sequence[Sequence[int]]) -> None:
        self._prompt_seeds = list(prompt_seeds)
        self._slots = [list(row) for row in slots]

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """The draws that the ancestors saw."""
        assert len(probabilities) == len(self._prompt_seeds)
        rows = []
        for row, (seed, slots) in enumerate(zip(self._prompt_seeds, self._slots, strict=True)):
            repeated = probabilities[row : row + 1].expand(slots[scale] + 1, -1, -1)
            rows.append(KeyedDraws([seed]).classes(repeated, scale=scale)[-1])
        return torch.stack(rows)


class SharedDraws:
    """One generator for all rows, one multinomial per scale, as in the released code.

    Batch composition changes the stream: sample k of a batch is not the picture of another seed.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """One multinomial over all rows."""
        flat = probabilities.flatten(0, 1)
        return torch.multinomial(flat, 1, replacement=True, generator=self.generator).view(probabilities.shape[:2])
