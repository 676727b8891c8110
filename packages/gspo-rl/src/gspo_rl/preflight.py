"""Checks before training: settings against engine and strategy, prompts against the policy's positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gspo_rl.models.policy import Policy
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.tasks import Task
from triptych.errors import UserError
from triptych.strategy import Strategy
from triptych.telemetry.logging import get_logger

_logger = get_logger("prompts")

OVERLONG = ("refuse", "drop")
_NUM_CHECKED_PROMPTS = 256


def check_settings(policy: Policy, engine: RolloutEngine, strategy: Strategy, sampling: SamplingConfig, *, old_logprobs: str) -> None:
    """Refuses settings under which the ratio would measure rounding, or the advantages would all be 0.

    Args:
        policy: the policy to be trained.
        engine: samples from it.
        strategy: steps it.
        sampling: of the rollouts.
        old_logprobs: `engine` or `recompute`; see `TrainerConfig`.

    Raises:
        UserError: if the settings contradict one another.
    """
    if policy.dtype != torch.float32:
        raise UserError(
            f"the policy has dtype {policy.dtype}, in which most AdamW steps round away: train with policy.dtype=float32 "
            "(other precisions can be evaluated)"
        )
    if old_logprobs == "engine" and not engine.is_exact:
        raise UserError(
            f"trainer.old_logprobs=engine needs a sampler that is float32 and bitwise repeatable, not this "
            f"{type(engine).__name__}: the difference would count as a policy change; use trainer.old_logprobs=recompute"
        )
    if old_logprobs == "engine" and strategy.precision != "float32":
        raise UserError(
            f"trainer.old_logprobs=engine needs a forward in float32, not strategy.precision={strategy.precision}: the "
            "difference would count as a policy change; use trainer.old_logprobs=recompute"
        )
    if sampling.temperature == 0:
        raise UserError("sampling.temperature is 0: all samples of a prompt would be equal, and every advantage 0; use 1")


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


def usable_prompts(
    policy: Policy, task: Task, split: str, sampling: SamplingConfig, config: PromptConfig, *, most: int | None = None
) -> Sequence[int]:
    """Indices of the prompts of a split that leave room for a response, in order.

    With `refuse` every prompt of a list is checked; of prompts generated on access, the first 256.

    Args:
        policy: encodes the prompts.
        task: has the split.
        split: `train` or `held_out`.
        sampling: length of the responses.
        config: the limit.
        most: number of prompts that are needed, with `drop` from the first that fit; None for all.

    Raises:
        UserError: if the split is empty, a prompt is too long, or all are.
    """
    prompts = task.prompts(split)
    if len(prompts) == 0:
        raise UserError(f"the task is empty: its {split} split has no prompt")
    room = policy.max_positions - sampling.max_tokens
    limit = room if config.max_tokens is None else min(room, config.max_tokens)
    needed = len(prompts) if most is None else min(most, len(prompts))
    if config.overlong == "refuse":
        num_checked = needed if isinstance(prompts, list) else min(needed, _NUM_CHECKED_PROMPTS)
        longest = max(len(policy.encode(prompt)) for prompt in prompts[:num_checked])
        if longest > limit:
            reason = (
                f"sampling.max_tokens leaves {room} of the policy's {policy.max_positions} positions"
                if limit == room
                else f"prompts.max_tokens is {limit}"
            )
            raise UserError(
                f"the longest prompt of the {split} split has {longest} tokens, and {reason}: shorten the prompts, lower "
                "sampling.max_tokens, choose another policy, or leave them out with prompts.overlong=drop"
            )
        return range(needed)
    kept: list[int] = []
    num_seen = 0
    for index in range(len(prompts)):
        if len(kept) == needed:
            break
        num_seen += 1
        if len(policy.encode(prompts[index])) <= limit:
            kept.append(index)
    if not kept:
        raise UserError(f"all {num_seen} prompts of the {split} split have more than {limit} tokens: shorten them")
    if len(kept) < num_seen:
        number = f"{num_seen - len(kept)} of {num_seen}"
        _logger.warning("%s prompts of the %s split have more than %d tokens and are left out", number, split, limit)
    return kept
