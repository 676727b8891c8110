"""Summary and page of a training, from its evaluations and its logged metrics."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from gspo_rl.trainer import FitResult
from triptych.evaluation.statistics import Interval, paired_difference
from triptych.report import Chart, ReportConfig, Samples
from triptych.seeding import generator


def summarize(result: FitResult, rows: Sequence[Mapping[str, Any]], *, seed: int, confidence: float) -> dict[str, Any]:
    """The numbers of a training as plain JSON values.

    Args:
        result: of `GSPOTrainer.fit`.
        rows: of metrics.jsonl.
        seed: of the bootstrap.
        confidence: of the interval of the gain, which is paired by prompt; None where the prompts were changed in between.
    """
    before, after = result.before, result.after

    def paired(name: str, stream: str) -> Interval | None:
        scores = [torch.tensor(getattr(evaluation, name), dtype=torch.float64) for evaluation in (before, after)]
        if before.prompts_digest != after.prompts_digest or not all(map(len, scores)):
            return None
        return paired_difference(*scores, generator=generator(seed, stream), confidence=confidence)

    gain, blind_gain = paired("per_prompt", "gain"), paired("blind_per_prompt", "blind_gain")
    clip_fractions = [row["clip_fraction/tokens"] for row in rows if "clip_fraction/tokens" in row]
    noise = [row["noise/sampler_clip_widths"] for row in rows if "noise/sampler_clip_widths" in row]
    return {
        "accuracy_before": before.accuracy.mean,
        "accuracy_before_interval": before.accuracy[1:],
        "accuracy_after": after.accuracy.mean,
        "accuracy_after_interval": after.accuracy[1:],
        "accuracy_gain": None if gain is None else gain.mean,
        "accuracy_gain_interval": None if gain is None else gain[1:],
        "greedy_before": before.greedy.mean,
        "greedy_after": after.greedy.mean,
        "blind_before": None if before.blind is None else before.blind.mean,
        "blind_after": None if after.blind is None else after.blind.mean,
        "blind_gain": None if blind_gain is None else blind_gain.mean,
        "blind_gain_interval": None if blind_gain is None else blind_gain[1:],
        "truncated_before": before.truncated,
        "truncated_after": after.truncated,
        "length_before": before.mean_length,
        "length_after": after.mean_length,
        "pass_at_k_before": {str(k): value.mean for k, value in before.pass_at.items()},
        "pass_at_k_after": {str(k): value.mean for k, value in after.pass_at.items()},
        "num_prompts": len(after.per_prompt),
        "clip_fraction_tokens": sum(clip_fractions) / len(clip_fractions) if clip_fractions else None,
        "median_clip_widths": _median_move(rows),
        "noise_clip_widths": max(noise, default=None),
        "train_seconds": result.train_seconds,
        "tokens_per_second": result.tokens_per_second,
    }


def _median_move(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Median over the steps of the mean distance of the ratio from 1 in the last mini-batch, in clip widths."""
    prefix = "ratio_clip_widths/minibatch_"
    indices = [int(key.removeprefix(prefix)) for row in rows for key in row if key.startswith(prefix)]
    moves = [row[f"{prefix}{max(indices)}"] for row in rows if indices and f"{prefix}{max(indices)}" in row]
    return median(moves) if moves else None


def training_report(title: str, note: str, result: FitResult, *, num_minibatches: int, clip: tuple[float, float] | None) -> ReportConfig:
    """The page of a training.

    Args:
        title: heading.
        note: a sentence about the setting.
        result: of `GSPOTrainer.fit`.
        num_minibatches: mini-batches of a step.
        clip: clip widths below and above a ratio of 1; None for an objective without them.
    """
    before, after = result.before, result.after
    rows = [
        (old.prompt, old.answer, f"{old.completion}\n(reward {old.reward:g})", f"{new.completion}\n(reward {new.reward:g})")
        for old, new in zip(before.samples, after.samples, strict=False)
        if old.prompt == new.prompt
    ]
    notes = [note]
    if before.prompts_digest != after.prompts_digest:
        notes.append("The held-out prompts were changed during the training: the accuracies before and after are of different prompts.")
    return ReportConfig(
        title=title,
        headline={
            "held-out accuracy before": f"{100 * before.accuracy.mean:.1f} %",
            "held-out accuracy after": f"{100 * after.accuracy.mean:.1f} %",
            "greedy, before to after": f"{100 * before.greedy.mean:.1f} % to {100 * after.greedy.mean:.1f} %",
            **_blind_headline(result),
            "training": f"{result.train_seconds:.0f} s",
            "tokens per second": f"{result.tokens_per_second:.0f}",
        },
        notes=notes,
        charts=[*reward_charts(), *ratio_charts(num_minibatches, clip), *policy_charts()],
        samples=[Samples("Held-out prompts, before and after", ("prompt", "answer", "before", "after"), rows)],
    )


def _blind_headline(result: FitResult) -> dict[str, str]:
    before, after = result.before.blind, result.after.blind
    if before is None or after is None:
        return {}
    return {"right last value, whatever the format": f"{100 * before.mean:.1f} % to {100 * after.mean:.1f} %"}


def reward_charts() -> list[Chart]:
    """Rewards, accuracy and groups without an advantage."""
    return [
        Chart("Reward", {"reward/mean": "mean", "evaluation/accuracy": "held-out accuracy"}),
        Chart("Zero-advantage groups", {"reward/zero_advantage_groups": "all rewards equal"}, "fraction of groups", (0, 1)),
    ]


def ratio_charts(num_minibatches: int, clip: tuple[float, float] | None) -> list[Chart]:
    """Clip fractions and importance ratios; ratios as deviation from 1 in clip widths, if there are widths."""
    low, high = clip or (1.0, 1.0)
    last = num_minibatches - 1
    fractions = {
        "clip_fraction/tokens": "tokens",
        "clip_fraction/sequences": "sequences",
        "clip_fraction/sequences_two_sided": "sequences, two-sided",
    }
    quantiles = {f"ratio/minibatch_{last}/q{level}": f"quantile .{level}" for level in ("05", "50", "95")}
    moved = {f"ratio_clip_widths/minibatch_{index}": f"mini-batch {index + 1}" for index in range(num_minibatches)}
    return [
        Chart("Clip fraction", fractions, "fraction", (0, 1)),
        Chart(
            "Importance ratio in the last mini-batch",
            quantiles,
            "ratio - 1" if clip is None else "(ratio - 1) in clip widths",
            transform=lambda ratio: (ratio - 1) / (low if ratio < 1 else high),
        ),
        Chart("Mean distance of the ratio from 1", moved, "clip widths"),
    ]


def policy_charts() -> list[Chart]:
    """Entropy, divergence, lengths, gradient and speed."""
    speed = {"timing/generation_tokens_per_second": "generation", "timing/training_tokens_per_second": "training"}
    return [
        Chart("Entropy", {"entropy": "entropy"}, "nats per token"),
        Chart("KL divergence from the old policy", {"approx_kl": "k3 estimate"}, "nats per token"),
        Chart("Response length", {"length/mean": "all", "length/correct": "correct", "length/incorrect": "incorrect"}, "tokens"),
        Chart("Gradient norm", {"grad_norm": "before clipping"}),
        Chart("Sampler against trainer", {"sampler_difference/max": "largest", "sampler_difference/mean": "mean"}, "nats"),
        Chart("Noise floor of the ratio", {f"noise/{pair}_clip_widths": pair for pair in ("sampler", "batching")}, "clip widths"),
        Chart("Speed", speed, "tokens per second"),
    ]
