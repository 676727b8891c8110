"""Rewards of completions: the task's own and further functions, weighted, with failures counted instead of raised."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import Task
from triptych.errors import UserError
from triptych.telemetry.logging import get_logger

_logger = get_logger("reward")

TASK = "task"
"""Name of the task's own reward."""


class RewardFunction(Protocol):
    """Contract of reward functions."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Sequence[float]:
        """One reward per completion; `prompts` holds the prompt of each."""
        ...


@dataclass
class RewardConfig:
    """One of several rewards.

    Attributes:
        function: Hydra node of a reward function (`gspo_rl.rewards.RewardFunction`); null for the task's own reward.
        weight: factor of the reward in the sum.
    """

    function: Any = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UserError(f"the weight of a reward is {self.weight}: give a finite number")


class RewardTable(NamedTuple):
    """Rewards of a number of completions.

    Attributes:
        total: the weighted sum.
        parts: each reward by name, before its weight.
        num_failed: number of completions for which a function raised or returned no finite number; their part is 0.
    """

    total: Float[Tensor, " batch"]
    parts: dict[str, Float[Tensor, " batch"]]
    num_failed: dict[str, int]

    def of(self, row: int) -> dict[str, float]:
        """The parts of one completion."""
        return {name: float(part[row]) for name, part in self.parts.items()}


class Rewards:
    """The weighted sum of several rewards.

    A function that raises for a batch is called again for each completion alone, so that one bad completion does not cost the others
    their reward. The first failure of a function is logged.

    Args:
        task: its own reward decides which completions are correct, whatever its weight is.
        functions: further reward functions by name.
        weights: factors by name; 1 where a name is missing.

    Attributes:
        task: that task.

    Raises:
        UserError: if a weight has no function, or all weights are 0.
    """

    def __init__(
        self, task: Task, functions: Mapping[str, RewardFunction] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.task = task
        self._functions: dict[str, RewardFunction] = {TASK: task_reward(task), **(functions or {})}
        self._weights = dict.fromkeys(self._functions, 1.0) | dict(weights or {})
        unknown = sorted(set(self._weights) - set(self._functions))
        if unknown:
            raise UserError(f"rewards.{unknown[0]} has no function: give rewards.{unknown[0]}.function")
        if not any(self._weights.values()):
            raise UserError("all weights of rewards are 0, so that nothing is learned: set one of them")
        self._warned: set[str] = set()

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> RewardTable:
        """The rewards of completions; `prompts` holds the prompt of each."""
        parts: dict[str, Tensor] = {}
        num_failed: dict[str, int] = {}
        for name, function in self._functions.items():
            values, errors = guarded(function, prompts, completions)
            parts[name] = torch.tensor(values, dtype=torch.float32)
            num_failed[name] = len(errors)
            if errors and name not in self._warned:
                self._warned.add(name)
                _logger.warning("reward '%s' failed for %d of %d completions, which get 0: %s", name, len(errors), len(values), errors[0])
        total = torch.stack([self._weights[name] * part for name, part in parts.items()]).sum(dim=0)
        return RewardTable(total, parts, num_failed)


def task_reward(task: Task) -> RewardFunction:
    """The reward of a task as a function of batches."""
    return lambda prompts, completions: [task.reward(prompt, item) for prompt, item in zip(prompts, completions, strict=True)]


def guarded(function: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> tuple[list[float], list[str]]:
    """Calls a reward function; returns finite rewards, 0 where it failed, and one message for each failure."""
    try:
        found = [float(value) for value in function(prompts, completions)]
    except UserError:
        raise
    except Exception as error:
        if len(completions) == 1:
            return [0.0], [f"{type(error).__name__}: {error}"]
        alone = [guarded(function, [prompt], [item]) for prompt, item in zip(prompts, completions, strict=True)]
        return [values[0] for values, _ in alone], [message for _, messages in alone for message in messages]
    if len(found) != len(completions):
        return [0.0] * len(completions), [f"it returned {len(found)} numbers for {len(completions)} completions"] * len(completions)
    failures = [f"it returned {value}" for value in found if not math.isfinite(value)]
    return [value if math.isfinite(value) else 0.0 for value in found], failures


class RewardModel:
    """A sequence classifier with one output as a reward function.

    Args:
        path: folder in Hugging Face format with weights in safetensors.
        batch_size: completions scored at one time.
        device: of the model.

    Raises:
        UserError: if it cannot be loaded, or has more than one output.
    """

    def __init__(self, path: str, *, batch_size: int = 16, device: torch.device | str = "cpu") -> None:
        # Imported lazily: other rewards need no model.
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self._model = AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"the reward model '{path}' cannot be loaded ({str(error).splitlines()[0]}): give a folder") from error
        if self._model.config.num_labels != 1:
            raise UserError(f"the reward model '{path}' has {self._model.config.num_labels} outputs: choose one with a single output")
        self._model.to(device).eval()
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id or self._tokenizer.eos_token_id
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """The model's output for each prompt with its completion, as a chat where the tokenizer has a template."""
        texts = [self._text(prompt, item) for prompt, item in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for start in range(0, len(texts), self._batch_size):
            inputs = self._tokenizer(texts[start : start + self._batch_size], padding=True, return_tensors="pt").to(self._model.device)
            scores += self._model(**inputs).logits[:, 0].float().tolist()
        return scores

    def _text(self, prompt: Prompt, completion: Completion) -> str:
        if self._tokenizer.chat_template is None:
            return f"{prompt.text}{completion.text}"
        messages = [*prompt.conversation, {"role": "assistant", "content": completion.text}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))


def build_rewards(task: Task, configs: Mapping[str, RewardConfig], build: Callable[[Any], RewardFunction]) -> Rewards:
    """The rewards of a config.

    Args:
        task: the task.
        configs: settings by name.
        build: makes the function of a node.
    """
    functions = {name: build(config.function) for name, config in configs.items() if config.function is not None}
    return Rewards(task, functions, {name: config.weight for name, config in configs.items()})
