"""Contract of rollout engines."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.rollout.sampling import SamplingConfig


class RolloutEngine(Protocol):
    """Contract of every sampler; it may run in this process, in another, or on other GPUs.

    Attributes:
        is_exact: whether it computes in float32 and is bitwise repeatable. Its log-probabilities may then replace those of
            the trainer; otherwise the two agree in distribution only.
    """

    @property
    def is_exact(self) -> bool:
        """See the class."""
        ...

    def generate(self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        """`num_samples` completions per prompt, grouped by prompt, in the order of the prompts.

        A completion depends on its own seed alone, not on the other prompts of the call or their number.

        Args:
            prompts: one entry per group; a prompt is tokenised and prefilled once for all its samples.
            num_samples: completions per prompt.
            sampling: length, temperature and truncation.
            seeds: one per completion, `len(prompts) * num_samples` in the order of the result.

        Raises:
            UserError: if a prompt and its response do not fit into the model's positions.
        """
        ...

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        """Loads the trainer's parameters, streamed under the names of the `TokenScorer`.

        Args:
            parameters: name and tensor, one at a time; the iterator is read to its end.
            version: number of optimizer steps; the `weight_version` of all later completions.
        """
        ...

    def close(self) -> None:
        """Releases processes and memory; called at the end of every run, also after an error, and possibly twice."""
        ...
