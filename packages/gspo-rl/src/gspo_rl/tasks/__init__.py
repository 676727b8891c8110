"""Contract of tasks: prompts and rewards."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from gspo_rl.data.batch import Completion, Prompt

CORRECT = 1.0
"""The reward of a fully correct answer; accuracy counts completions that reach it."""


class Task(Protocol):
    """Contract of every task."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of `train` or `held_out`; the two are disjoint. Items may be generated on access."""
        ...

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """The reward of a completion: 1 for a correct answer, less for any other."""
        ...


@runtime_checkable
class BlindTask(Task, Protocol):
    """A task that can tell whether a response states the answer, whatever its format is.

    Its accuracy separates what a policy has learned from how it writes: a policy that learns to be brief gains reward without it.
    """

    def blind_reward(self, prompt: Prompt, completion: Completion) -> float:
        """The reward of a completion by its last value, also of one that the token limit cut."""
        ...


@runtime_checkable
class DemonstratingTask(Task, Protocol):
    """A task with demonstrations, for the supervised cold start."""

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """A response to imitate; may be deliberately imperfect."""
        ...
