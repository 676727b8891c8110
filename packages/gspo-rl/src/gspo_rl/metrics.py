"""Metrics of the loop, from per-sequence numbers gathered over all ranks, and its timings."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gspo_rl.data.batch import Batch, Completion
from gspo_rl.numerics.logprobs import TokenScores
from gspo_rl.numerics.objectives import ObjectiveOutput
from gspo_rl.rewards import TASK, RewardTable
from gspo_rl.tasks import CORRECT
from triptych.distributed import World
from triptych.telemetry.flops import FlopsMeter
from triptych.telemetry.stopwatch import Stopwatch, training_seconds

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
"""Columns of a `SequenceTable` that do not depend on the objective; the objective's own metrics follow them."""

TOKENS = "/tokens"
"""Suffix of a column that holds an objective's metric, summed over response tokens."""

RATIO_QUANTILES = (0.05, 0.5, 0.95)


class SequenceTable(NamedTuple):
    """Per-sequence numbers.

    Attributes:
        columns: names, `TRAINER_COLUMNS` first.
        values: one row per sequence, float64.
    """

    columns: tuple[str, ...]
    values: Float[Tensor, "sequences columns"]

    @classmethod
    def merged(cls, parts: Sequence["SequenceTable"], rows: Sequence[Int[Tensor, " part"]]) -> "SequenceTable":
        """Joins the tables of micro-batches; `rows[i]` holds the row of each sequence of `parts[i]` in the result."""
        values = torch.cat([part.values for part in parts])
        return cls(parts[0].columns, torch.empty_like(values).index_copy_(0, torch.cat(list(rows)).to(values.device), values))

    def gathered(self, world: World) -> "SequenceTable":
        """The tables of all ranks, concatenated in rank order."""
        return self._replace(values=world.all_gather(self.values))

    def column(self, name: str) -> Float[Tensor, " sequences"]:
        """The values of one column."""
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
    """One row per sequence of a micro-batch."""
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

    Metrics of an objective other than `clipped`, `outside`, `log_ratio` and `ratio_clip_widths` are logged as `objective/<name>`: the
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
        # Only the first mini-batch is scored with the weights that sampled it.
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
    """Fractions over the whole step.

    `clip_fraction/tokens` and `/sequences` count tokens and sequences whose gradient the clip removed; `_two_sided` counts
    ratios outside the range for any advantage; `_nonzero` excludes sequences with advantage 0, which have no gradient to
    clip. A sequence counts if any of its tokens does.
    """
    clipped, outside = everything[f"clipped{TOKENS}"], everything[f"outside{TOKENS}"]
    tokens = everything["length"].sum().clamp(min=1)
    has_advantage = everything["advantage"] != 0
    return {
        "clip_fraction/tokens": clipped.sum() / tokens,
        "clip_fraction/tokens_two_sided": outside.sum() / tokens,
        "clip_fraction/tokens_nonzero": clipped[has_advantage].sum() / everything["length"][has_advantage].sum().clamp(min=1),
        "clip_fraction/sequences": (clipped > 0).double().mean(),
        "clip_fraction/sequences_two_sided": (outside > 0).double().mean(),
        "clip_fraction/sequences_nonzero": _mean((clipped > 0)[has_advantage]),
    }


def rollout_metrics(
    completions: Sequence[Completion], rewards: Float[Tensor, "prompts group"], parts: RewardTable, world: World
) -> dict[str, float]:
    """Metrics of one rollout batch over all ranks: rewards, groups without spread, and lengths in tokens.

    Args:
        completions: of this rank.
        rewards: their sums of rewards.
        parts: the rewards by name; the task's decides which completions are correct.
        world: the ranks.
    """
    lengths = world.all_gather(torch.tensor([len(item.token_ids) for item in completions], dtype=torch.float64))
    finished = world.all_gather(torch.tensor([item.finished for item in completions], dtype=torch.float64))
    table = world.all_gather(rewards.double())
    correct: Bool[Tensor, " batch"] = world.all_gather(parts.parts[TASK]) >= CORRECT
    several = parts.parts if len(parts.parts) > 1 else {}
    means = {f"reward/{name}": float(world.all_gather(part.double()).mean()) for name, part in several.items()}
    num_failed = sum(world.gather_numbers(sum(parts.num_failed.values())))
    return {
        "reward/mean": float(table.mean()),
        "reward/std": float(table.std()),
        "reward/correct": float(correct.double().mean()),
        **means,
        **({"reward/failed": float(num_failed)} if num_failed else {}),
        "reward/zero_advantage_groups": float((table.amax(dim=1) == table.amin(dim=1)).double().mean()),
        "length/mean": float(lengths.mean()),
        "length/correct": float(_mean(lengths[correct])),
        "length/incorrect": float(_mean(lengths[~correct])),
        "length/truncated": float(1.0 - finished.mean()),
    }


def _mean(values: Tensor) -> Tensor:
    """The mean; NaN (logged as null) if `values` is empty."""
    return values.double().mean()


class StepRecorder:
    """Timings, utilisation and metrics of the steps.

    Args:
        scorer: the module whose forwards are counted, possibly wrapped by a strategy.
        device: of the computation.
        peak_flops: operations per second of the device; None if unknown.

    Attributes:
        watch: seconds of the phases of a step.
    """

    def __init__(self, scorer: nn.Module, device: torch.device, peak_flops: float | None) -> None:
        self.watch = Stopwatch(device)
        self._meter = FlopsMeter(scorer, peak_flops)
        self._forward_tokens: list[int] = []
        self._began = self._began_training = 0.0

    def begin(self) -> None:
        """Starts the clock of a step."""
        self._began = time.perf_counter()

    def begin_training(self) -> None:
        """Starts the clock of the training phase, after the rollout."""
        self._began_training = time.perf_counter()
        self._forward_tokens = []

    @contextmanager
    def forward(self, num_tokens: int) -> Iterator[None]:
        """Times a training forward of `num_tokens` padded tokens; the operations of the first of a step are counted."""
        if not self._forward_tokens:
            self._meter.arm()
        self._forward_tokens.append(num_tokens)
        with self.watch.phase("forward"):
            yield

    def metrics(self, rollout: Mapping[str, float], outcomes: Sequence[MinibatchOutcome], *, learning_rate: float) -> dict[str, float]:
        """All metrics of a step except its timings."""
        num_skipped = float(sum(not math.isfinite(outcome.grad_norm) for outcome in outcomes))
        return {**rollout, **minibatch_metrics(outcomes), "skipped_steps": num_skipped, "learning_rate": learning_rate}

    def timings(self, num_tokens: int, num_response_tokens: int) -> dict[str, float]:
        """Seconds of the phases, tokens per second over all ranks, and utilisation."""
        now = time.perf_counter()
        found = self.watch.read()
        forwards = sum(self._forward_tokens) / self._forward_tokens[0]
        found |= self._meter.utilisation(forwards=forwards, seconds=training_seconds(found))
        found["timing/training_seconds"] = now - self._began_training
        if "timing/generation_seconds" in found:  # a batch restored from a checkpoint was generated earlier
            found["timing/generation_tokens_per_second"] = num_response_tokens / found["timing/generation_seconds"]
        found["timing/training_tokens_per_second"] = num_tokens / found["timing/training_seconds"]
        found["timing/step_seconds"] = now - self._began
        found["timing/tokens_per_second"] = num_tokens / found["timing/step_seconds"]
        return found

    def close(self) -> None:
        """Removes the hooks from the model."""
        self._meter.close()
