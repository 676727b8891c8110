"""Where prompts come from and how answers are graded."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from gspo_rl.data.batch import Completion, Prompt

CORRECT = 1.0
"""The reward of a fully correct answer; accuracy counts completions that reach it."""


class Task(Protocol):
    """Contract of every task."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of `train` or `held_out`; the two share no prompt. Items may be made when they are read."""
        ...

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """How good a completion is: 1 for a correct answer, less for any other."""
        ...


@runtime_checkable
class DemonstratingTask(Task, Protocol):
    """A task that can also show responses, for the supervised cold start."""

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """A response a policy may learn from; may be deliberately imperfect."""
        ...
