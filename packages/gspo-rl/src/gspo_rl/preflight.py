"""Checks before training: settings against engine and strategy, prompts against the policy's positions."""

import torch

from gspo_rl.evaluation import EvaluationConfig
from gspo_rl.models.policy import Policy
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig, check_lengths
from gspo_rl.tasks import Task
from triptych.errors import UserError
from triptych.strategy import Strategy

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
    if strategy.recomputes and getattr(policy.scorer, "share_prompts", False):
        raise UserError(
            "strategy.activation_checkpointing=true recomputes a forward, and policy.share_prompts=true keeps its keys and values: "
            "set one of them to false"
        )
    if sampling.temperature == 0:
        raise UserError("sampling.temperature is 0: all samples of a prompt would be equal, and every advantage 0; use 1")


def check_task(policy: Policy, task: Task, sampling: SamplingConfig, evaluation: EvaluationConfig) -> int:
    """Refuses an empty task, and prompts that leave no room for a response.

    Every training prompt of a list is checked; of prompts generated on access, the first 256.

    Returns:
        Tokens of the longest training prompt among them.

    Raises:
        UserError: if a split is empty or a prompt is too long.
    """
    train, held_out = task.prompts("train"), task.prompts(evaluation.split)
    for split, prompts in (("train", train), (evaluation.split, held_out)):
        if len(prompts) == 0:
            raise UserError(f"the task is empty: its {split} split has no prompt")
    num_checked = len(train) if isinstance(train, list) else _NUM_CHECKED_PROMPTS
    lengths = [len(policy.encode(prompt)) for prompt in train[:num_checked]]
    check_lengths(lengths, sampling.max_tokens, policy.max_positions)
    evaluated = [len(policy.encode(prompt)) for prompt in held_out[: evaluation.num_prompts]]
    check_lengths(evaluated, evaluation.sampling.over(sampling).max_tokens, policy.max_positions)
    return max(lengths)
