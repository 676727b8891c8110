"""What the loop logs, from per-sequence numbers gathered over all ranks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gspo_rl.data.batch import Batch, Completion
from gspo_rl.numerics.logprobs import TokenScores
from gspo_rl.numerics.objectives import ObjectiveOutput
from gspo_rl.tasks import CORRECT
from triptych.distributed import World

TRAINER_COLUMNS = (
    "loss",
    "weight",
    "advantage",
    "length",
    "entropy_sum",
    "kl_sum",
    "sampler_difference_sum",
    "sampler_difference_max",
)
"""Columns of the table that every rank fills for its sequences of a mini-batch; the objective's own metrics follow."""

TOKENS = "/tokens"
"""Ends the name of a column that is a sum over response tokens of an objective's metric."""

RATIO_QUANTILES = (0.05, 0.5, 0.95)


class SequenceTable(NamedTuple):
    """Numbers of sequences.

    Attributes:
        columns: names, `TRAINER_COLUMNS` first.
        values: one row per sequence, float64.
    """

    columns: tuple[str, ...]
    values: Float[Tensor, "sequences columns"]

    def column(self, name: str) -> Float[Tensor, " sequences"]:
        """The numbers of one column."""
        return self.values[:, self.columns.index(name)]


class MinibatchOutcome(NamedTuple):
    """One optimizer step.

    Attributes:
        sequences: one row per sequence of all ranks.
        grad_norm: global gradient norm before clipping.
    """

    sequences: SequenceTable
    grad_norm: float


def sequence_table(
    batch: Batch, scores: TokenScores, old_logprobs: Float[Tensor, "batch tokens"], output: ObjectiveOutput
) -> SequenceTable:
    """The rows of the sequences in a micro-batch."""
    mask = batch.response_mask

    def total(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0).sum(dim=1)

    with torch.no_grad():
        log_ratio = scores.logprobs - old_logprobs
        # k3 of Schulman, "Approximating KL divergence": unbiased for KL(old || new) and never negative.
        kl = log_ratio.exp() - 1.0 - log_ratio
        difference = torch.where(mask, (old_logprobs - batch.sampler_logprobs).abs(), 0.0)
        own = (
            output.losses,
            output.weights,
            batch.advantages,
            batch.response_lengths,
            total(scores.entropy),
            total(kl),
            difference.sum(dim=1),
            difference.amax(dim=1),
        )
        columns = dict(zip(TRAINER_COLUMNS, own, strict=True))
        for name, values in output.metrics.items():
            columns |= {name: values} if values.dim() == 1 else {f"{name}{TOKENS}": total(values.double())}
        return SequenceTable(tuple(columns), torch.stack([column.double() for column in columns.values()], dim=1))


def minibatch_metrics(outcomes: Sequence[MinibatchOutcome]) -> dict[str, float]:
    """Metrics of one step's mini-batches, in order.

    What an objective reports beyond `clipped`, `outside`, `log_ratio` and `ratio_clip_widths` is logged as `objective/<name>`: its
    mean over sequences, or over response tokens.
    """
    names = outcomes[0].sequences.columns
    column = {name: [outcome.sequences.column(name) for outcome in outcomes] for name in names}
    everything = {name: torch.cat(parts) for name, parts in column.items()}
    tokens = everything["length"].sum().clamp(min=1)
    metrics = {"loss": everything["loss"].sum() / everything["weight"].sum()}
    if f"clipped{TOKENS}" in everything:
        metrics |= _clip_fractions(everything)
    metrics |= {
        "entropy": everything["entropy_sum"].sum() / tokens,
        "approx_kl": everything["kl_sum"].sum() / tokens,
        # Only the first mini-batch is scored by the very weights that sampled it.
        "sampler_difference/mean": column["sampler_difference_sum"][0].sum() / column["length"][0].sum().clamp(min=1),
        "sampler_difference/max": column["sampler_difference_max"][0].max(),
    }
    if "ratio_clip_widths" in everything:
        metrics["ratio_clip_widths/max"] = everything["ratio_clip_widths"].max()
    levels = torch.tensor(RATIO_QUANTILES, dtype=torch.float64)
    for index in range(len(outcomes)):
        if "log_ratio" in everything:
            for level, value in zip(RATIO_QUANTILES, torch.quantile(column["log_ratio"][index].exp().cpu(), levels), strict=True):
                metrics[f"ratio/minibatch_{index}/q{round(100 * level):02d}"] = value
        if "ratio_clip_widths" in everything:
            metrics[f"ratio_clip_widths/minibatch_{index}"] = column["ratio_clip_widths"][index].mean()
    for name in names[len(TRAINER_COLUMNS) :]:
        if name not in ("log_ratio", "ratio_clip_widths", f"clipped{TOKENS}", f"outside{TOKENS}"):
            short = name.removesuffix(TOKENS)
            metrics[f"objective/{short}"] = everything[name].mean() if short == name else everything[name].sum() / tokens
    norms = [outcome.grad_norm for outcome in outcomes]
    return {name: float(value) for name, value in metrics.items()} | {"grad_norm": sum(norms) / len(norms)}


def _clip_fractions(everything: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shares over the whole step.

    `clip_fraction/tokens` and `/sequences` count what lost its gradient to the clip; `_two_sided` counts ratios outside the
    range whatever the advantage; `_nonzero` leaves out sequences with advantage 0, which no clip can touch. A sequence
    counts if any of its tokens does.
    """
    clipped, outside = everything[f"clipped{TOKENS}"], everything[f"outside{TOKENS}"]
    tokens = everything["length"].sum().clamp(min=1)
    teaching = everything["advantage"] != 0
    return {
        "clip_fraction/tokens": clipped.sum() / tokens,
        "clip_fraction/tokens_two_sided": outside.sum() / tokens,
        "clip_fraction/tokens_nonzero": clipped[teaching].sum() / everything["length"][teaching].sum().clamp(min=1),
        "clip_fraction/sequences": (clipped > 0).double().mean(),
        "clip_fraction/sequences_two_sided": (outside > 0).double().mean(),
        "clip_fraction/sequences_nonzero": _mean((clipped > 0)[teaching]),
    }


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
        "reward/zero_advantage_groups": float((table.amax(dim=1) == table.amin(dim=1)).double().mean()),
        "length/mean": float(lengths.mean()),
        "length/correct": float(_mean(lengths[correct])),
        "length/incorrect": float(_mean(lengths[~correct])),
        "length/truncated": float(1.0 - finished.mean()),
    }


def _mean(values: Tensor) -> Tensor:
    """The mean, NaN (logged as null) where there is nothing to average."""
    return values.double().mean()
