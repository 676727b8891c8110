"""What the loop logs, from per-sequence numbers gathered over all ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gspo_rl.batch import Batch, Completion
from gspo_rl.logprobs import TokenScores
from gspo_rl.objectives import ObjectiveOutput
from gspo_rl.tasks import CORRECT
from triptych.distributed import World

SEQUENCE_COLUMNS = (
    "loss",
    "log_ratio",
    "displacement",
    "advantage",
    "length",
    "clipped_tokens",
    "outside_tokens",
    "entropy_sum",
    "kl_sum",
    "sampler_difference_sum",
    "sampler_difference_max",
)
"""Columns of the table that every rank fills for its sequences of a mini-batch."""

RATIO_QUANTILES = (0.05, 0.5, 0.95)


class MinibatchOutcome(NamedTuple):
    """One optimizer step.

    Attributes:
        sequences: one row per sequence of all ranks, columns as in `SEQUENCE_COLUMNS`.
        grad_norm: global gradient norm before clipping.
    """

    sequences: Float[Tensor, "sequences columns"]
    grad_norm: float


def sequence_numbers(
    batch: Batch, scores: TokenScores, old_logprobs: Float[Tensor, "batch tokens"], output: ObjectiveOutput
) -> Float[Tensor, "batch columns"]:
    """The row of every sequence in a micro-batch, float64, in the order of `SEQUENCE_COLUMNS`."""
    mask = batch.response_mask

    def total(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0).sum(dim=1)

    with torch.no_grad():
        log_ratio = scores.logprobs - old_logprobs
        # k3 of Schulman, "Approximating KL divergence": unbiased for KL(old || new) and never negative.
        kl = log_ratio.exp() - 1.0 - log_ratio
        difference = torch.where(mask, (old_logprobs - batch.sampler_logprobs).abs(), 0.0)
        columns = (
            output.losses,
            output.log_ratio,
            output.displacement,
            batch.advantages,
            batch.response_lengths,
            output.clipped.sum(dim=1),
            output.outside.sum(dim=1),
            total(scores.entropy),
            total(kl),
            difference.sum(dim=1),
            difference.amax(dim=1),
        )
        return torch.stack([column.double() for column in columns], dim=1)


def minibatch_metrics(outcomes: Sequence[MinibatchOutcome]) -> dict[str, float]:
    """Metrics of one step's mini-batches, in order.

    Clip fractions are shares over the whole step. `clip_fraction/tokens` and `/sequences` count what lost its
    gradient to the clip; `_two_sided` counts ratios outside the range whatever the advantage; `_nonzero` leaves out
    sequences with advantage 0, which no clip can touch. A sequence counts if any of its tokens does.
    """
    column = {name: [outcome.sequences[:, index] for outcome in outcomes] for index, name in enumerate(SEQUENCE_COLUMNS)}
    everything = {name: torch.cat(parts) for name, parts in column.items()}
    tokens = everything["length"].sum().clamp(min=1)
    teaching = everything["advantage"] != 0
    clipped, outside = everything["clipped_tokens"], everything["outside_tokens"]
    metrics = {
        "loss": everything["loss"].mean(),
        "clip_fraction/tokens": clipped.sum() / tokens,
        "clip_fraction/tokens_two_sided": outside.sum() / tokens,
        "clip_fraction/tokens_nonzero": clipped[teaching].sum() / everything["length"][teaching].sum().clamp(min=1),
        "clip_fraction/sequences": (clipped > 0).double().mean(),
        "clip_fraction/sequences_two_sided": (outside > 0).double().mean(),
        "clip_fraction/sequences_nonzero": _mean((clipped > 0)[teaching]),
        "entropy": everything["entropy_sum"].sum() / tokens,
        "approx_kl": everything["kl_sum"].sum() / tokens,
        # Only the first mini-batch is scored by the very weights that sampled it.
        "sampler_difference/mean": column["sampler_difference_sum"][0].sum() / column["length"][0].sum().clamp(min=1),
        "sampler_difference/max": column["sampler_difference_max"][0].max(),
        "displacement/max": everything["displacement"].max(),
    }
    levels = torch.tensor(RATIO_QUANTILES, dtype=torch.float64)
    for index, log_ratio in enumerate(column["log_ratio"]):
        for level, value in zip(RATIO_QUANTILES, torch.quantile(log_ratio.exp().cpu(), levels), strict=True):
            metrics[f"ratio/minibatch_{index}/q{round(100 * level):02d}"] = value
        metrics[f"displacement/minibatch_{index}"] = column["displacement"][index].mean()
    norms = [outcome.grad_norm for outcome in outcomes]
    return {name: float(value) for name, value in metrics.items()} | {"grad_norm": sum(norms) / len(norms)}


def rollout_metrics(completions: Sequence[Completion], rewards: Float[Tensor, "prompts group"], world: World) -> dict[str, float]:
    """Metrics of one rollout batch over all ranks: rewards, groups without spread, and lengths in tokens."""
    lengths = world.all_gather(torch.tensor([len(item.token_ids) for item in completions], dtype=torch.float64))
    finished = world.all_gather(torch.tensor([item.finished for item in completions], dtype=torch.float64))
    table = world.all_gather(rewards.double())
    correct: Bool[Tensor, " batch"] = table.flatten() >= CORRECT
    return {
        "reward/mean": float(table.mean()),
        "reward/std": float(table.std()),
        "reward/correct": float(correct.double().mean()),
        "reward/zero_spread_groups": float((table.amax(dim=1) == table.amin(dim=1)).double().mean()),
        "length/mean": float(lengths.mean()),
        "length/correct": float(_mean(lengths[correct])),
        "length/incorrect": float(_mean(lengths[~correct])),
        "length/truncated": float(1.0 - finished.mean()),
    }


def _mean(values: Tensor) -> Tensor:
    """The mean, NaN (logged as null) where there is nothing to average."""
    return values.double().mean()
