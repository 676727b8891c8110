"""From tensors of sampled tokens to completions, for every in-process engine."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig, check_lengths
from triptych.errors import UserError


def encode_prompts(policy: Policy, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig) -> list[tuple[int, ...]]:
    """Token ids of every prompt, `num_samples` times in a row.

    Raises:
        UserError: if a prompt and its response do not fit into the model's positions.
    """
    encoded = [policy.encode(prompt) for prompt in prompts]
    check_lengths([len(ids) for ids in encoded], sampling.max_tokens, policy.max_positions)
    return [ids for ids in encoded for _ in range(num_samples)]


def left_padded(prompt_ids: Sequence[tuple[int, ...]], pad_id: int) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Prompts padded on the left, so that all of them end at one position; and where they are real."""
    longest = max(len(ids) for ids in prompt_ids)
    rows = [[pad_id] * (longest - len(ids)) + list(ids) for ids in prompt_ids]
    real = [[False] * (longest - len(ids)) + [True] * len(ids) for ids in prompt_ids]
    return torch.tensor(rows, dtype=torch.long), torch.tensor(real)


def build_completions(
    policy: Policy,
    prompt_ids: Sequence[tuple[int, ...]],
    tokens: Int[Tensor, "batch tokens"],
    logprobs: Float[Tensor, "batch tokens"],
    *,
    weight_version: int = 0,
) -> list[Completion]:
    """Cuts each row after its first end-of-sequence token and decodes it.

    Raises:
        UserError: if a log-probability is not finite, which means the policy's weights have gone astray.
    """
    ends = set(policy.eos_ids)
    completions = []
    for ids, row, row_logprobs in zip(prompt_ids, tokens.tolist(), logprobs.tolist(), strict=True):
        end = next((place for place, token in enumerate(row) if token in ends), None)
        length = len(row) if end is None else end + 1
        completions.append(
            Completion(
                prompt_ids=ids,
                token_ids=tuple(row[:length]),
                logprobs=tuple(row_logprobs[:length]),
                text=policy.decode(row[:length]),
                finished=end is not None,
                weight_version=weight_version,
            )
        )
    if not all(torch.isfinite(torch.tensor(item.logprobs)).all() for item in completions):
        raise UserError("the policy's log-probabilities are not finite: lower optimizer.learning_rate and go on from a good checkpoint")
    return completions
