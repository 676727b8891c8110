"""Clipped surrogate objectives of group-based policy optimization, one unreduced loss per sequence.

All of them take the log-probabilities of sampled tokens under the policy being trained and under the fixed
policy of the batch, and return float32 results. The caller takes the mean over sequences, because the divisor is the
sum of weights of the whole optimizer step, over all micro-batches and ranks.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from triptych.errors import UserError

WIDEST_SEQUENCE_CLIP = 0.02
"""A length-normalised ratio stays within a few thousandths of 1; see `gspo`."""


class ObjectiveOutput(NamedTuple):
    """Losses, weights and metrics of a batch, unreduced.

    The loss of an optimizer step is the sum of `losses` divided by the sum of `weights`, both over all micro-batches and
    ranks; the trainer divides, once.

    Attributes:
        losses: one per sequence, with gradient.
        weights: contribution of each sequence to the divisor: 1 (a mean over sequences), or its number of response tokens
            (a mean over tokens). They depend on the mask alone.
        metrics: without gradient, by name: numbers of a sequence, or of its tokens, of which the sum over response tokens is
            logged. The objectives here report `log_ratio`, the length-normalised log importance ratio log s_i; `clipped`,
            response tokens whose gradient the clip removed (the clipped branch is the smaller one, which depends on the
            advantage's sign); `outside`, response tokens with a ratio outside the clip range on either side, whatever
            the advantage; `ratio_clip_widths`, the distance of the ratio from 1 as |log ratio| in units of the clip width on that side:
            1 is the edge of the trust region (for token-level ratios the mean over response tokens).
    """

    losses: Float[Tensor, " batch"]
    weights: Float[Tensor, " batch"]
    metrics: Mapping[str, Shaped[Tensor, "batch ..."]]


class Objective(Protocol):
    """Contract of every objective, with its hyperparameters already bound."""

    def __call__(
        self,
        logprobs: Float[Tensor, "batch tokens"],
        old_logprobs: Float[Tensor, "batch tokens"],
        advantages: Float[Tensor, " batch"] | Float[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        behavior_logprobs: Float[Tensor, "batch tokens"] | None = None,
    ) -> ObjectiveOutput:
        """Losses, weights and metrics; see `gspo`.

        Args:
            logprobs: of the sampled tokens under the policy being trained.
            old_logprobs: under the policy that is held fixed for this batch.
            advantages: per sequence or per token.
            mask: true on response tokens.
            behavior_logprobs: as recorded by the rollout engine, which may differ from the old policy by rounding; for
                corrections of that mismatch. Objectives without a correction ignore them.
        """
        ...


def gspo(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    behavior_logprobs: Float[Tensor, "batch tokens"] | None = None,
    clip_low: float,
    clip_high: float,
    allow_wide_clip: bool = False,
) -> ObjectiveOutput:
    """Group Sequence Policy Optimization: the clipped surrogate of a sequence-level ratio.

        s_i = exp( 1/|y_i| sum_t log pi(y_t) - log pi_old(y_t) )
        loss_i = -min( s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i )

    Source: GSPO (arXiv 2507.18071), equations 5 and 7.

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy being trained.
        old_logprobs: the same under the policy that is held fixed for this batch; carries no gradient.
        advantages: one per sequence, already group-normalised.
        mask: true on response tokens, false on prompt and padding.
        behavior_logprobs: not used: there is no correction in this objective.
        clip_low: half-width of the trust region below 1, in units of the ratio (paper: 3e-4).
        clip_high: half-width above 1 (paper: 4e-4).
        allow_wide_clip: accept widths above 0.02.

    Returns:
        Losses of shape (batch,), unreduced, float32. A sequence is clipped whole, so all its response tokens share
        one indicator. A row without response tokens has loss 0.

    Raises:
        UserError: if a width is negative, `clip_low` is 1 or more, or a width is above 0.02 and `allow_wide_clip`
            is false.

    Example:
        >>> zeros, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
        >>> gspo(zeros, zeros, torch.tensor([2.0]), mask, clip_low=3e-4, clip_high=4e-4).losses
        tensor([-2.])
    """
    _check_sequence_clip(clip_low, clip_high, allow_wide_clip)
    log_ratio = sequence_log_ratio(logprobs, old_logprobs, mask)
    losses = _surrogate(log_ratio, advantages.float(), clip_low, clip_high)
    losses = torch.where(mask.any(dim=1), losses, 0.0)
    clipped, outside = _clip_indicators(log_ratio, advantages, clip_low, clip_high)
    clip_widths = _ratio_in_clip_widths(log_ratio.detach(), clip_low, clip_high)
    return _per_sequence(losses, log_ratio.detach(), clipped[:, None] & mask, outside[:, None] & mask, clip_widths)


def gspo_token(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, " batch"] | Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    behavior_logprobs: Float[Tensor, "batch tokens"] | None = None,
    clip_low: float,
    clip_high: float,
    allow_wide_clip: bool = False,
) -> ObjectiveOutput:
    """GSPO-token: the sequence's ratio with each token's own gradient, so that advantages may differ by token.

        s_{i,t} = sg[s_i] * pi(y_t) / sg[pi(y_t)]
        loss_i = -1/|y_i| sum_t min( s_{i,t} A_{i,t}, clip(s_{i,t}, 1 - clip_low, 1 + clip_high) A_{i,t} )

    where sg stops the gradient. With one advantage per sequence, value and gradient equal those of `gspo`.

    Source: GSPO (arXiv 2507.18071), equations 13 and 14.

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy being trained.
        old_logprobs: the same under the policy that is held fixed for this batch; carries no gradient.
        advantages: one per sequence, or one per token.
        mask: true on response tokens, false on prompt and padding.
        behavior_logprobs: not used: there is no correction in this objective.
        clip_low: half-width of the trust region below 1, in units of the ratio (paper: 3e-4).
        clip_high: half-width above 1 (paper: 4e-4).
        allow_wide_clip: accept widths above 0.02.

    Returns:
        As `gspo`; with token-level advantages the indicators differ within a sequence.

    Raises:
        UserError: as `gspo`.
    """
    _check_sequence_clip(clip_low, clip_high, allow_wide_clip)
    log_ratio = sequence_log_ratio(logprobs, old_logprobs, mask).detach()
    own_gradient = torch.where(mask, logprobs.float() - logprobs.float().detach(), 0.0)  # value 0, gradient 1
    token_log_ratio = log_ratio[:, None] + own_gradient
    token_advantages = (advantages[:, None] if advantages.dim() == 1 else advantages).float().expand_as(token_log_ratio)
    losses = masked_mean(_surrogate(token_log_ratio, token_advantages, clip_low, clip_high), mask)
    clipped, outside = _clip_indicators(token_log_ratio, token_advantages, clip_low, clip_high)
    return _per_sequence(losses, log_ratio, clipped & mask, outside & mask, _ratio_in_clip_widths(log_ratio, clip_low, clip_high))


def grpo(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    behavior_logprobs: Float[Tensor, "batch tokens"] | None = None,
    clip_low: float,
    clip_high: float,
) -> ObjectiveOutput:
    """Group Relative Policy Optimization without the KL term: the paper's baseline, one ratio per token.

        w_{i,t} = pi(y_t) / pi_old(y_t)
        loss_i = -1/|y_i| sum_t min( w_{i,t} A_i, clip(w_{i,t}, 1 - clip_low, 1 + clip_high) A_i )

    Source: GSPO (arXiv 2507.18071), equations 2 and 3.

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy being trained.
        old_logprobs: the same under the policy that is held fixed for this batch; carries no gradient.
        advantages: one per sequence, already group-normalised.
        mask: true on response tokens, false on prompt and padding.
        behavior_logprobs: not used: there is no correction in this objective.
        clip_low: half-width of the trust region below 1, in units of the token ratio (paper: 0.2).
        clip_high: half-width above 1 (paper: 0.27).

    Returns:
        Losses of shape (batch,), unreduced, float32. A row without response tokens has loss 0.

    Raises:
        UserError: if a width is negative or `clip_low` is 1 or more.
    """
    _check_clip(clip_low, clip_high)
    token_log_ratio = torch.where(mask, logprobs.float() - old_logprobs.float(), 0.0)
    token_advantages = advantages[:, None].float().expand_as(token_log_ratio)
    losses = masked_mean(_surrogate(token_log_ratio, token_advantages, clip_low, clip_high), mask)
    clipped, outside = _clip_indicators(token_log_ratio, token_advantages, clip_low, clip_high)
    log_ratio = masked_mean(token_log_ratio, mask).detach()
    clip_widths = masked_mean(_ratio_in_clip_widths(token_log_ratio.detach(), clip_low, clip_high), mask)
    return _per_sequence(losses, log_ratio, clipped & mask, outside & mask, clip_widths)


def sequence_log_ratio(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, " batch"]:
    """The mean over response tokens of log pi - log pi_old, which is log s_i, float32; 0 for a row without response tokens.

    Source: GSPO (arXiv 2507.18071), equation 7.
    """
    return masked_mean(logprobs.float() - old_logprobs.float(), mask)


def masked_mean(values: Float[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    """Mean of each row over its true positions; 0, with gradient 0, where there are none.

    Values at false positions are ignored, NaN included.
    """
    return torch.where(mask, values, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _per_sequence(losses: Tensor, log_ratio: Tensor, clipped: Tensor, outside: Tensor, clip_widths: Tensor) -> ObjectiveOutput:
    """The output of an objective in which every sequence has weight 1, whatever its length."""
    metrics = {"log_ratio": log_ratio, "clipped": clipped, "outside": outside, "ratio_clip_widths": clip_widths}
    return ObjectiveOutput(losses, torch.ones_like(losses), metrics)


def _surrogate(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(r A, clip(r) A), by cases: where the clip holds, a ratio that overflows has a gradient of 0 and not of 0 * inf."""
    clipped, _ = _clip_indicators(log_ratio, advantages, clip_low, clip_high)
    held = clipped | (advantages == 0)
    bounds = torch.where(advantages > 0, 1.0 + clip_high, 1.0 - clip_low)
    return -torch.where(held, bounds, torch.where(held, 0.0, log_ratio).exp()) * advantages


def _clip_indicators(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    ratio = log_ratio.detach().exp()
    above, below = ratio > 1.0 + clip_high, ratio < 1.0 - clip_low
    return (above & (advantages > 0)) | (below & (advantages < 0)), above | below


def _ratio_in_clip_widths(log_ratio: Tensor, clip_low: float, clip_high: float) -> Tensor:
    width = torch.where(log_ratio > 0, math.log1p(clip_high), -math.log1p(-clip_low))
    return torch.where(log_ratio == 0, 0.0, log_ratio.abs() / width)  # with a width of 0, an unmoved ratio gives 0 instead of 0/0


def _check_clip(clip_low: float, clip_high: float) -> None:
    if not (0.0 <= clip_low < 1.0 and clip_high >= 0.0):
        raise UserError(f"objective.clip_low is {clip_low} and clip_high {clip_high}: they need 0 <= clip_low < 1 and clip_high >= 0")


def _check_sequence_clip(clip_low: float, clip_high: float, allow_wide_clip: bool) -> None:
    _check_clip(clip_low, clip_high)
    if max(clip_low, clip_high) > WIDEST_SEQUENCE_CLIP and not allow_wide_clip:
        raise UserError(
            f"objective.clip_low is {clip_low} and clip_high {clip_high}, but a length-normalised sequence ratio moves by "
            f"thousandths, so a clip wider than {WIDEST_SEQUENCE_CLIP} can never fire: use 3e-4 and 4e-4 as in the paper, "
            "or objective.allow_wide_clip=true"
        )
