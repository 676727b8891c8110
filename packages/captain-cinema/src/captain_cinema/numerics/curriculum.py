"""Training over growing contexts: stages, and the mixture of memories.

Source: Captain Cinema (arXiv 2507.18634), sections 3.2 and 4.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from triptych.errors import UserError


@dataclass
class Stage:
    """One stage of the curriculum.

    Attributes:
        num_pairs: (caption, frame) pairs of a training sequence.
        num_steps: optimizer steps.
        learning_rate_scale: factor of the base learning rate.

    Raises:
        UserError: if a number is below 1, or the scale not positive.
    """

    num_pairs: int
    num_steps: int
    learning_rate_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.num_steps < 1 or not self.learning_rate_scale > 0:
            raise UserError(
                f"a stage of {self.num_pairs} pairs over {self.num_steps} steps at scale {self.learning_rate_scale}: all must be above 0"
            )


def stage_at(step: int, stages: Sequence[Stage]) -> tuple[int, int]:
    """The stage that 0-based `step` belongs to, and the step within it; past the end the last stage goes on.

    Raises:
        UserError: if there is no stage.

    Example:
        >>> stage_at(12, [Stage(1, 10), Stage(8, 10)])
        (1, 2)
    """
    if not stages:
        raise UserError("the curriculum has no stage: give at least one")
    for index, stage in enumerate(stages):
        if step < stage.num_steps or index == len(stages) - 1:
            return index, step
        step -= stage.num_steps
    raise AssertionError


def sample_policy(shares: Mapping[str, float], *, generator: torch.Generator) -> str:
    """One name, drawn in proportion to its share: memory policies are mixed so that one model serves them all.

    Raises:
        UserError: if no share is positive or one is negative.
    """
    if not shares or min(shares.values()) < 0 or not sum(shares.values()) > 0:
        raise UserError(f"a mixture {dict(shares)}: give shares of 0 or more, at least one above 0")
    names = list(shares)
    weights = torch.tensor([shares[name] for name in names], dtype=torch.float64)
    return names[int(torch.multinomial(weights, 1, generator=generator))]
