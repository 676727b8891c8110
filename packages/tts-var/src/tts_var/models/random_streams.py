"""Random streams of a sampling run, keyed so that results do not depend on batching."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.seeding import generator
from tts_var.numerics.sampling import invert_cumulative


class RandomStreams(Protocol):
    """Where the randomness of a sampling run comes from."""

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """One class per row and draw; rows are prompts times particles, prompt-major."""
        ...


class KeyedStreams:
    """Random streams keyed by prompt, particle and scale: no row knows what else is in the batch.

    Args:
        prompt_seeds: one seed per prompt of the batch.
    """

    def __init__(self, prompt_seeds: Sequence[int]) -> None:
        self._prompt_seeds = list(prompt_seeds)

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """Inverts the cumulative distribution at one uniform number per draw."""
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
    """Random streams that replay one particle per prompt: the slots that its ancestors held, scale by scale.

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
            rows.append(KeyedStreams([seed]).classes(repeated, scale=scale)[-1])
        return torch.stack(rows)


class SharedStream:
    """One generator for all rows, one multinomial per scale, as in the released code.

    Batch composition changes the stream: sample k of a batch is not the picture of another seed.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def classes(self, probabilities: Float[Tensor, "rows draws classes"], *, scale: int) -> Int[Tensor, "rows draws"]:
        """One multinomial over all rows."""
        flat = probabilities.flatten(0, 1)
        return torch.multinomial(flat, 1, replacement=True, generator=self.generator).view(probabilities.shape[:2])
