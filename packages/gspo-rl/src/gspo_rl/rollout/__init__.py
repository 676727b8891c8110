"""How responses are sampled."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gspo_rl.batch import Completion, Prompt
from gspo_rl.rollout.sampling import SamplingConfig


class RolloutEngine(Protocol):
    """Contract of every sampler."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the engine evaluates the policy."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        """One completion per prompt, in order.

        The randomness of a completion comes from its own seed alone: neither the other prompts of the call nor
        their number changes what is drawn for it. A prompt that stands several times is sampled several times.

        Raises:
            UserError: if a prompt and its response do not fit into the model's positions.
        """
        ...

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        """Takes over the trainer's parameters; `version` counts optimizer steps."""
        ...
