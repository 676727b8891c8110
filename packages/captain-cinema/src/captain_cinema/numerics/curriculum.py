"""Progressive training: stages of growing context length, and sampling of a memory policy per step.

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
        num_pairs: (caption, frame) pairs per training sequence.
        num_steps: optimizer steps.
        learning_rate_scale: factor applied to the base learning rate.

    Raises:
        UserError: if a number is below 1, or the scale is not positive.
    """

    num_pairs: int
    num_steps: int
    learning_rate_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.num_steps < 1 or not self.learning_rate_scale > 0:
            raise UserError(
                f"a stage has {self.num_pairs} pairs, {self.num_steps} steps and rate scale {self.learning_rate_scale}: all must be above 0"
            )


def stage_at(step: int, stages: Sequence[Stage]) -> tuple[int, int]:
    """Index of the stage of 0-based `step`, and the step within that stage; the last stage has no end.

    Raises:
        UserError: if there are no stages.

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
    """A name sampled in proportion to its weight in `shares`; training mixes memory policies so that one model supports them all.

    Raises:
        UserError: if a weight is negative or none is positive.
    """
    if not shares or min(shares.values()) < 0 or not sum(shares.values()) > 0:
        raise UserError(f"the mixture is {dict(shares)}: every weight must be 0 or more, and at least one above 0")
    names = list(shares)
    weights = torch.tensor([shares[name] for name in names], dtype=torch.float64)
    return names[int(torch.multinomial(weights, 1, generator=generator))]
