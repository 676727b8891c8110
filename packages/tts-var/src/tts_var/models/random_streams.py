"""Random streams of a sampling run, keyed such that results do not depend on batching."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.seeding import generator
from tts_var.numerics.sampling import invert_cumulative


class RandomStreams(Protocol):
    """Contract of the sources of randomness of a sampling run."""

    def classes(self, probabilities: Float[Tensor, "rows samples classes"], *, scale: int) -> Int[Tensor, "rows samples"]:
        """One sampled class per row and column; rows are prompts times particles, prompt-major."""
        ...


class KeyedStreams:
    """Random streams keyed by prompt, particle and scale: a row does not depend on the other rows of the batch.

    Args:
        prompt_seeds: one seed per prompt of the batch.
    """

    def __init__(self, prompt_seeds: Sequence[int]) -> None:
        self._prompt_seeds = list(prompt_seeds)

    def classes(self, probabilities: Float[Tensor, "rows samples classes"], *, scale: int) -> Int[Tensor, "rows samples"]:
        """Inverse of the cumulative distribution at one uniform number per sample."""
        rows, streams, _ = probabilities.shape
        per_prompt = rows // len(self._prompt_seeds)
        uniform = torch.stack(
            [
                torch.rand(streams, generator=generator(seed, "draw", particle, scale))
                for seed in self._prompt_seeds
                for particle in range(per_prompt)
            ]
        ).to(probabilities.device)
        return invert_cumulative(probabilities, uniform)


class LineageStreams:
    """Random streams that replay one particle per prompt: the slots of its ancestors, scale by scale.

    Args:
        prompt_seeds: one seed per prompt of the batch.
        slots: per prompt the slot of the ancestor at every scale.
    """

    def __init__(self, prompt_seeds: Sequence[int], slots: Sequence[Sequence[int]]) -> None:
        self._prompt_seeds = list(prompt_seeds)
        self._slots = [list(row) for row in slots]

    def classes(self, probabilities: Float[Tensor, "rows samples classes"], *, scale: int) -> Int[Tensor, "rows samples"]:
        """The classes sampled for the ancestors."""
        assert len(probabilities) == len(self._prompt_seeds)
        rows = []
        for row, (seed, slots) in enumerate(zip(self._prompt_seeds, self._slots, strict=True)):
            repeated = probabilities[row : row + 1].expand(slots[scale] + 1, -1, -1)
            rows.append(KeyedStreams([seed]).classes(repeated, scale=scale)[-1])
        return torch.stack(rows)


class SharedStream:
    """One generator for all rows, one multinomial per scale, as in the released code.

    Results depend on the composition of the batch: sample k of a batch cannot be reproduced alone.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def classes(self, probabilities: Float[Tensor, "rows samples classes"], *, scale: int) -> Int[Tensor, "rows samples"]:
        """One multinomial over all rows."""
        flat = probabilities.flatten(0, 1)
        return torch.multinomial(flat, 1, replacement=True, generator=self.generator).view(probabilities.shape[:2])
