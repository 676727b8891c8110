"""Evaluation of search strategies: prompts fulfilled, cost, diversity, and rank correlation of early and final rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.distributed import World
from triptych.errors import UserError
from triptych.evaluation.runner import evaluate_sharded
from triptych.evaluation.statistics import Interval, bootstrap_interval, detectable_difference, paired_difference
from triptych.seeding import derive_seed, generator
from tts_var.data import Benchmark, BenchmarkPrompt
from tts_var.models import NextScaleModel
from tts_var.models.random_streams import KeyedStreams
from tts_var.numerics.schedule import SearchConfig
from tts_var.scorers import Features, Reward
from tts_var.search import Search, SearchResult


@dataclass
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        num_prompts: prompts of the benchmark.
        seeds: every prompt is sampled once per seed.
        confidence: level of the bootstrap intervals.
        correlation_prompts: prompts for the rank correlation of early and final rewards; 0 for none.
        correlation_particles: independent images per prompt for it.
    """

    num_prompts: int = 300
    seeds: list[int] = field(default_factory=lambda: [0])
    confidence: float = 0.95
    correlation_prompts: int = 60
    correlation_particles: int = 8

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise UserError(f"evaluation.num_prompts is {self.num_prompts}: it must be 1 or more")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"evaluation.seeds is {self.seeds}: give one or more different seeds")
        if not 0 < self.confidence < 1:
            raise UserError(f"evaluation.confidence is {self.confidence}: it must lie between 0 and 1")
        if self.correlation_prompts < 0:
            raise UserError(f"evaluation.correlation_prompts is {self.correlation_prompts}: it must be 0 (none) or more")
        if self.correlation_prompts and self.correlation_particles < 3:
            raise UserError(f"evaluation.correlation_particles is {self.correlation_particles}: ranks need at least 3")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one strategy for one prompt and seed.

    Attributes:
        prompt: index of the prompt.
        seed: the seed.
        correct: whether the chosen image fulfils the prompt.
        any_correct: whether any final image does: the upper bound of every selection rule.
        flops: operations.
        tokens: tokens generated.
        seconds: wall time.
        num_samples: final images.
        diversity: mean distance between the pooled features of the final images; None for one image.
        effective_sample_sizes: effective sample size of the weights of every resampling, in order.
    """

    prompt: int
    seed: int
    correct: bool
    any_correct: bool
    flops: float
    tokens: int
    seconds: float
    num_samples: int
    diversity: float | None
    effective_sample_sizes: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Reads the values of `to_json`."""
        return cls(**{**row, "effective_sample_sizes": tuple(row["effective_sample_sizes"])})


def evaluate_search(
    search: Search,
    benchmark: Benchmark,
    prompts: Sequence[BenchmarkPrompt],
    config: EvaluationConfig,
    *,
    features: Features | None,
    world: World,
) -> list[Outcome]:
    """One outcome per prompt and seed, in order, the same for every number of ranks.

    Args:
        search: the strategy.
        benchmark: scores images against prompts.
        prompts: prompts of that benchmark.
        config: settings, of which the seeds are used.
        features: for the diversity; None omits it.
        world: the processes among which the prompts are divided.
    """
    jobs = [(index, seed) for seed in config.seeds for index in range(len(prompts))]

    def evaluate(shard: range) -> list[Outcome]:
        own = [jobs[position] for position in shard]
        if not own:
            return []
        # The seed depends on the index, so that a repeated prompt gets different seeds.
        seeds = [derive_seed(seed, "evaluation", index) for index, seed in own]
        results = search.run([prompts[index].text for index, _ in own], seeds=seeds)
        return [
            _outcome(result, index, seed, benchmark, prompts[index], features) for (index, seed), result in zip(own, results, strict=True)
        ]

    return evaluate_sharded(len(jobs), evaluate, world)


def _outcome(
    result: SearchResult, index: int, seed: int, benchmark: Benchmark, prompt: BenchmarkPrompt, features: Features | None
) -> Outcome:
    correct = [score >= 1 for score in benchmark.score(result.images, [prompt] * len(result.images)).tolist()]
    sizes = [event.effective_sample_size for event in result.events]
    return Outcome(
        prompt=index,
        seed=seed,
        correct=correct[result.chosen],
        any_correct=any(correct),
        flops=result.cost.flops,
        tokens=result.cost.num_tokens,
        seconds=result.cost.seconds,
        num_samples=len(result.images),
        diversity=_diversity(result.images, features),
        effective_sample_sizes=tuple(size for size in sizes if size is not None),
    )


def reward_rank_correlation(
    model: NextScaleModel, reward: Reward, prompts: Sequence[str], *, num_particles: int, seed: int, max_particles: int = 64
) -> list[float]:
    """Spearman correlation, at each scale, of the rewards of partial images with those of the final ones.

    Mean over prompts of the correlation among `num_particles` independent images.

    Source: TTS-VAR (arXiv 2507.18537), the analysis behind the choice of resampling scales.
    """
    size = max(1, max_particles // num_particles)
    totals = torch.zeros(len(model.scales), dtype=torch.float64)
    for begin in range(0, len(prompts), size):
        batch = list(prompts[begin : begin + size])
        condition = model.encode(batch)
        particles = model.start(condition, num_particles)
        streams = KeyedStreams([derive_seed(seed, "correlation", begin + index) for index in range(len(batch))])
        # Rows are prompt-major: the rewards of (prompts * particles,) images unflatten to (prompts, particles).
        texts = [text for text in batch for _ in range(num_particles)]
        rewards = []
        for _ in range(len(model.scales)):
            particles = model.advance(particles, condition, streams)
            partial = model.decode(particles.latent, max_size=reward.image_size)
            rewards.append(reward(partial, texts).double().cpu().unflatten(0, (len(batch), -1)))
        for scale, values in enumerate(rewards):
            totals[scale] += spearman(values, rewards[-1]).sum()
    return [float(total) / len(prompts) for total in totals]


def spearman(first: Float[Tensor, "rows items"], second: Float[Tensor, "rows items"]) -> Float[Tensor, " rows"]:
    """Rank correlation of each row; ties share their mean rank, and a constant row has correlation 0."""
    ranks = [_ranks(values) for values in (first, second)]
    centred = [values - values.mean(-1, keepdim=True) for values in ranks]
    scale = centred[0].norm(dim=-1) * centred[1].norm(dim=-1)
    return torch.where(scale > 0, (centred[0] * centred[1]).sum(-1) / scale.clamp(min=1e-12), torch.zeros_like(scale))


def per_prompt(outcomes: Sequence[Outcome], num_prompts: int) -> Float[Tensor, " prompts"]:
    """Fraction of the seeds under which each prompt was fulfilled, float64."""
    total, count = torch.zeros(num_prompts, dtype=torch.float64), torch.zeros(num_prompts, dtype=torch.float64)
    for outcome in outcomes:
        total[outcome.prompt] += outcome.correct
        count[outcome.prompt] += 1
    return total / count


def score_interval(outcomes: Sequence[Outcome], num_prompts: int, *, name: str, seed: int, confidence: float) -> Interval:
    """Fraction of prompts fulfilled by the strategy `name`, with its bootstrap interval over prompts."""
    stream = generator(seed, "bootstrap", name)
    return bootstrap_interval(per_prompt(outcomes, num_prompts), generator=stream, confidence=confidence)


def gain_over(
    baseline: Sequence[Outcome], outcomes: Sequence[Outcome], num_prompts: int, *, generator: torch.Generator, confidence: float = 0.95
) -> Interval:
    """Difference of the score to a baseline's, paired by prompt: both have the same prompts, seeds and noise."""
    return paired_difference(
        per_prompt(baseline, num_prompts), per_prompt(outcomes, num_prompts), generator=generator, confidence=confidence
    )


def summarize(
    outcomes: Mapping[str, Sequence[Outcome]],
    scores: Mapping[str, Interval],
    strategies: Mapping[str, SearchConfig],
    prompts: Sequence[BenchmarkPrompt],
    categories: Sequence[str],
    *,
    seed: int,
    confidence: float,
) -> dict[str, dict[str, Any]]:
    """Score, cost, diversity and gains of every strategy, as plain JSON values.

    Args:
        outcomes: outcomes by name of the strategy.
        scores: `score_interval` of each.
        strategies: settings of each, at least of those with outcomes.
        prompts: of the benchmark.
        categories: categories of the prompts.
        seed: seed of the bootstrap.
        confidence: level of the intervals.
    """
    operations = {name: _mean([row.flops for row in rows]) for name, rows in outcomes.items()}
    found = {}
    for name, rows in outcomes.items():
        fulfilled = per_prompt(rows, len(prompts))
        spreads = [row.diversity for row in rows if row.diversity is not None]
        found[name] = {
            "score": scores[name].mean,
            "interval": list(scores[name][1:]),
            "num_samples": rows[0].num_samples,
            "tflops": operations[name] / 1e12,
            "tokens": _mean([row.tokens for row in rows]),
            "seconds": _mean([row.seconds for row in rows]),
            "any_correct": _mean([row.any_correct for row in rows]),
            "diversity": _mean(spreads) if spreads else None,
            "categories": by_category(fulfilled, prompts, categories),
            "score_held_out": _mean_where(fulfilled, [prompt.held_out is True for prompt in prompts]),
            "score_seen": _mean_where(fulfilled, [prompt.held_out is False for prompt in prompts]),
            "effective_sample_sizes": [fmean(sizes) for sizes in zip(*(row.effective_sample_sizes for row in rows), strict=True)],
        }
    for name, row in found.items():
        baselines = {
            "over_single": "single",
            "over_best_of": best_of(strategies, strategies[name].num_images),
            "over_equal_compute": equal_compute(name, strategies, operations),
        }
        for key, baseline in baselines.items():
            if baseline is not None and baseline in outcomes and baseline != name:
                row[key] = _comparison(name, baseline, outcomes, len(prompts), seed=seed, confidence=confidence)
    return found


def _comparison(
    name: str, baseline: str, outcomes: Mapping[str, Sequence[Outcome]], num_prompts: int, *, seed: int, confidence: float
) -> dict[str, Any]:
    """The paired gain of a strategy, the difference that the comparison can detect, and the ratio of the operations."""
    gain = gain_over(
        outcomes[baseline], outcomes[name], num_prompts, generator=generator(seed, "paired", name, baseline), confidence=confidence
    )
    before, after = (per_prompt(outcomes[key], num_prompts) for key in (baseline, name))
    ratio = sum(row.flops for row in outcomes[name]) / sum(row.flops for row in outcomes[baseline])
    return {
        **gain._asdict(),
        "baseline": baseline,
        "detectable": detectable_difference(before, after) if num_prompts > 1 else None,
        "flops_ratio": ratio,
    }


def best_of(strategies: Mapping[str, SearchConfig], num_images: int) -> str | None:
    """The first strategy without events and with this number of final images, if that is more than one."""
    names = [name for name, settings in strategies.items() if not settings.events and settings.num_images == num_images > 1]
    return names[0] if names else None


def equal_compute(name: str, strategies: Mapping[str, SearchConfig], operations: Mapping[str, float]) -> str | None:
    """The strategy without events that needs as many operations as `name`, the nearest within 15 %; None without one."""
    if not strategies[name].events:
        return None
    ratios = {other: operations[other] / operations[name] for other in operations if not strategies[other].events}
    nearest = min(ratios, key=lambda other: abs(ratios[other] - 1), default=None)
    return nearest if nearest is not None and abs(ratios[nearest] - 1) <= 0.15 else None


def by_category(scores: Float[Tensor, " prompts"], prompts: Sequence[BenchmarkPrompt], categories: Sequence[str]) -> dict[str, float]:
    """Mean score of each category."""
    return {category: float(scores[torch.tensor([prompt.category == category for prompt in prompts])].mean()) for category in categories}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_where(scores: Tensor, chosen: list[bool]) -> float | None:
    """Mean score of the chosen prompts; None if no prompt is chosen."""
    return float(scores[torch.tensor(chosen)].mean()) if any(chosen) else None


def _ranks(values: Tensor) -> Tensor:
    # Rank = number of smaller items + half of the other ties, from comparisons of shape (rows, items, items).
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below.double() + (equal.double() - 1) / 2


def _diversity(images: Tensor, features: Features | None) -> float | None:
    """Mean pairwise distance of the token-averaged features, (images, channels); None for one image."""
    if features is None or len(images) < 2:
        return None
    pooled = features(images).float().mean(1)
    return float(torch.pdist(pooled).mean())
