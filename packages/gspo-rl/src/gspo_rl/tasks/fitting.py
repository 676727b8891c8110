"""Prompts that are too long: refused or left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import BlindTask, DemonstratingTask, Task
from triptych.errors import UserError
from triptych.telemetry.logging import get_logger

_logger = get_logger("prompts")

OVERLONG = ("refuse", "drop")


@dataclass
class PromptConfig:
    """Which prompts of a task are used.

    Attributes:
        max_tokens: longest prompt, in tokens; None for what `sampling.max_tokens` leaves of the policy's positions.
        overlong: what a longer one is met with: `refuse` ends the command before it begins, `drop` leaves it out and logs how many.
    """

    max_tokens: int | None = None
    overlong: str = "refuse"

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"prompts.max_tokens is {self.max_tokens}: it must be 1 or more")
        if self.overlong not in OVERLONG:
            raise UserError(f"prompts.overlong is '{self.overlong}': choose one of {', '.join(OVERLONG)}")


def fitting_task(task: Task, config: PromptConfig, encode: Callable[[Prompt], Sequence[int]], rooms: Mapping[str, int]) -> Task:
    """The task with the prompts that leave room for a response.

    Without a limit of its own, `refuse` checks nothing here: a trainer and an engine refuse what exceeds the policy's positions.

    Args:
        task: the task.
        config: the limit.
        encode: the tokens of a prompt.
        rooms: positions for a prompt in each split that is used.

    Raises:
        UserError: if a prompt is too long and `config` refuses it, or all prompts of a split are too long.
    """
    if config.overlong == "refuse" and config.max_tokens is None:
        return task
    splits = {}
    for split, room in rooms.items():
        limit = room if config.max_tokens is None else min(room, config.max_tokens)
        prompts = task.prompts(split)
        kept = [replace(prompt, index=index) for index, prompt in enumerate(prompts) if len(encode(prompt)) <= limit]
        number = f"{len(prompts) - len(kept)} of {len(prompts)} prompts of the {split} split have more than {limit} tokens"
        if len(kept) < len(prompts) and (config.overlong == "refuse" or not kept):
            remedy = "shorten them" if config.overlong == "drop" else "shorten them, or leave them out with prompts.overlong=drop"
            raise UserError(f"{number}: {remedy}")
        if len(kept) < len(prompts):
            _logger.warning("%s and are left out", number)
        splits[split] = kept
    return _KINDS[isinstance(task, BlindTask), isinstance(task, DemonstratingTask)](task, splits)


class _Fitting:
    """A task with some prompts of some splits."""

    def __init__(self, task: Task, splits: Mapping[str, Sequence[Prompt]]) -> None:
        self._task = task
        self._splits = splits

    def prompts(self, split: str) -> Sequence[Prompt]:
        return self._splits[split] if split in self._splits else self._task.prompts(split)

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return self._task.reward(prompt, completion)


class _Blind(_Fitting):
    """The same for a task that grades whatever the format."""

    def blind_reward(self, prompt: Prompt, completion: Completion) -> float:
        assert isinstance(self._task, BlindTask)
        return self._task.blind_reward(prompt, completion)


class _Demonstrating(_Fitting):
    """The same for a task with demonstrations."""

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        assert isinstance(self._task, DemonstratingTask)
        return self._task.demonstrate(prompt, generator)


class _BlindDemonstrating(_Blind, _Demonstrating):
    """Both."""


_KINDS = {(False, False): _Fitting, (True, False): _Blind, (False, True): _Demonstrating, (True, True): _BlindDemonstrating}
"""By whether the task is a `BlindTask` and a `DemonstratingTask`."""
