"""What a search is worth: prompts fulfilled, what they cost, how different the pictures are, and what the reward knows when."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.distributed import World
from triptych.errors import UserError
from triptych.evaluation.statistics import Interval, paired_difference
from triptych.seeding import derive_seed
from tts_var.data import Benchmark, BenchmarkPrompt
from tts_var.models import NextScaleModel
from tts_var.models.random_streams import KeyedStreams
from tts_var.scorers import Features, Reward
from tts_var.search import Search


@dataclass
class EvaluationConfig:
    """What is evaluated.

    Attributes:
        num_prompts: prompts of the benchmark.
        seeds: every prompt is drawn once per seed.
        confidence: of the bootstrap intervals.
        correlation_prompts: prompts for the rank correlation of early and final rewards; 0 leaves it out.
        correlation_particles: independent pictures per prompt for it.
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
    """What one strategy made of one prompt under one seed.

    Attributes:
        prompt: index of the prompt.
        seed: the seed.
        correct: whether the chosen picture fulfils the prompt.
        any_correct: whether any final picture does: what a perfect choice would reach.
        flops: operations.
        tokens: tokens generated.
        seconds: wall time.
        num_samples: final pictures.
        diversity: mean distance between the pooled features of the final pictures; None for one picture.
        effective_sample_sizes: of the weights of every resampling, in order.
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


class OutcomeStore:
    """Outcomes of the strategies that are done, as a component of a checkpoint: an evaluation goes on with the next one.

    Args:
        world: rank 0 writes, every rank reads.

    Attributes:
        outcomes: by strategy, in the order in which they were added.
    """

    def __init__(self, world: World) -> None:
        self.outcomes: dict[str, list[Outcome]] = {}
        self._world = world

    def save(self, directory: Path) -> None:
        """Writes all outcomes into `directory`."""
        if self._world.is_main:
            tree = {name: [asdict(row) for row in rows] for name, rows in self.outcomes.items()}
            (directory / "outcomes.json").write_text(json.dumps(tree))

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        self.outcomes.clear()
        for name, rows in json.loads((directory / "outcomes.json").read_text()).items():
            self.outcomes[name] = [Outcome(**{**row, "effective_sample_sizes": tuple(row["effective_sample_sizes"])}) for row in rows]


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
        search: what is evaluated.
        benchmark: says which pictures fulfil their prompts.
        prompts: of that benchmark.
        config: seeds.
        features: for the diversity; None leaves it out.
        world: the processes that share the prompts.
    """
    jobs = [(index, seed) for seed in config.seeds for index in range(len(prompts))]
    mine = [jobs[place] for place in world.shard(len(jobs))]
    # A prompt that occurs twice has a seed of its own at each place.
    seeds = [derive_seed(seed, "evaluation", index) for index, seed in mine]
    results = search.run([prompts[index].text for index, _ in mine], seeds=seeds)
    outcomes = []
    for (index, seed), result in zip(mine, results, strict=True):
        checked = [score >= 1 for score in benchmark.score(result.images, [prompts[index]] * len(result.images)).tolist()]
        outcomes.append(
            Outcome(
                prompt=index,
                seed=seed,
                correct=checked[result.chosen],
                any_correct=any(checked),
                flops=result.cost.flops,
                tokens=result.cost.num_tokens,
                seconds=result.cost.seconds,
                num_samples=len(result.images),
                diversity=_diversity(result.images, features),
                effective_sample_sizes=tuple(
                    event.effective_sample_size for event in result.events if event.effective_sample_size is not None
                ),
            )
        )
    return world.gather_objects(outcomes)


def reward_rank_correlation(
    model: NextScaleModel, reward: Reward, prompts: Sequence[str], *, num_particles: int, seed: int, max_particles: int = 64
) -> list[float]:
    """Spearman correlation, at each scale, of the rewards of unfinished pictures with those of the finished ones.

    Mean over prompts of the correlation among `num_particles` independent pictures.

    Source: TTS-VAR (arXiv 2507.18537), the analysis behind the choice of resampling scales.
    """
    size = max(1, max_particles // num_particles)
    totals = torch.zeros(len(model.scales), dtype=torch.float64)
    for begin in range(0, len(prompts), size):
        batch = list(prompts[begin : begin + size])
        condition = model.encode(batch)
        particles = model.start(condition, num_particles)
        streams = KeyedStreams([derive_seed(seed, "correlation", begin + place) for place in range(len(batch))])
        texts = [text for text in batch for _ in range(num_particles)]
        rewards = []
        for _ in range(len(model.scales)):
            particles = model.advance(particles, condition, streams)
            seen = model.decode(particles.latent, max_size=reward.image_size)
            rewards.append(reward(seen, texts).double().cpu().unflatten(0, (len(batch), -1)))
        for scale, values in enumerate(rewards):
            totals[scale] += spearman(values, rewards[-1]).sum()
    return [float(total) / len(prompts) for total in totals]


def spearman(first: Float[Tensor, "rows items"], second: Float[Tensor, "rows items"]) -> Float[Tensor, " rows"]:
    """Rank correlation of each row; ties share their mean rank, and a constant row correlates with nothing (0)."""
    ranks = [_ranks(values) for values in (first, second)]
    centred = [values - values.mean(-1, keepdim=True) for values in ranks]
    scale = centred[0].norm(dim=-1) * centred[1].norm(dim=-1)
    return torch.where(scale > 0, (centred[0] * centred[1]).sum(-1) / scale.clamp(min=1e-12), torch.zeros_like(scale))


def per_prompt(outcomes: Sequence[Outcome], num_prompts: int) -> Float[Tensor, " prompts"]:
    """Share of the seeds under which each prompt was fulfilled, float64."""
    total, count = torch.zeros(num_prompts, dtype=torch.float64), torch.zeros(num_prompts, dtype=torch.float64)
    for outcome in outcomes:
        total[outcome.prompt] += outcome.correct
        count[outcome.prompt] += 1
    return total / count


def gain_over(
    rival: Sequence[Outcome], outcomes: Sequence[Outcome], num_prompts: int, *, generator: torch.Generator, confidence: float = 0.95
) -> Interval:
    """By how much the outcomes score above the rival's, paired by prompt: both saw the same prompts, seeds and noise."""
    return paired_difference(per_prompt(rival, num_prompts), per_prompt(outcomes, num_prompts), generator=generator, confidence=confidence)


def by_category(scores: Float[Tensor, " prompts"], prompts: Sequence[BenchmarkPrompt], categories: Sequence[str]) -> dict[str, float]:
    """Mean score of each category."""
    return {category: float(scores[torch.tensor([prompt.category == category for prompt in prompts])].mean()) for category in categories}


def _ranks(values: Tensor) -> Tensor:
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below.double() + (equal.double() - 1) / 2


def _diversity(images: Tensor, features: Features | None) -> float | None:
    if features is None or len(images) < 2:
        return None
    pooled = features(images).float().mean(1)
    return float(torch.pdist(pooled).mean())
