"""Tokenised prompts and completions from tensors of sampled tokens, for every in-process engine."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig, check_lengths
from gspo_rl.rollout.stopping import Stops
from triptych.errors import UserError


def encode_prompts(policy: Policy, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig) -> list[tuple[int, ...]]:
    """Token ids of every prompt, encoded once and repeated `num_samples` times.

    Raises:
        UserError: if a prompt and its response do not fit into the model's positions.
    """
    encoded = [policy.encode(prompt) for prompt in prompts]
    check_lengths([len(ids) for ids in encoded], sampling.max_tokens, policy.max_positions)
    return [ids for ids in encoded for _ in range(num_samples)]


def build_completions(
    stops: Stops,
    prompt_ids: Sequence[tuple[int, ...]],
    tokens: Int[Tensor, "batch tokens"],
    logprobs: Float[Tensor, "batch tokens"],
    *,
    weight_version: int = 0,
) -> list[Completion]:
    """Cuts each row at its end and decodes it.

    Args:
        stops: finds the end.
        prompt_ids: of each row.
        tokens: sampled tokens; those after the end of a response are ignored.
        logprobs: their log-probabilities.
        weight_version: see `Completion`.

    Raises:
        UserError: if a log-probability is not finite, because the policy has diverged.
    """
    completions = []
    for ids, row, row_logprobs in zip(prompt_ids, tokens, logprobs, strict=True):
        response = stops.cut(row.tolist())
        completions.append(
            Completion(
                prompt_ids=ids,
                token_ids=row[: response.length].clone(),
                logprobs=row_logprobs[: response.length].clone(),
                text=response.text,
                finished=response.finished,
                weight_version=weight_version,
            )
        )
    if not all(bool(torch.isfinite(item.logprobs).all()) for item in completions):
        raise UserError("the policy's log-probabilities are not finite: lower optimizer.learning_rate and resume with resume_step")
    return completions
