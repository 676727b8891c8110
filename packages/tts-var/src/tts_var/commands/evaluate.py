"""`python -m tts_var.commands.evaluate`: the six-category score of every search strategy, beside what it costs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, ClassVar

import torch
from hydra.utils import instantiate
from omegaconf import MISSING
from torch import Tensor

from triptych.commands.entry_point import entry_point
from triptych.errors import UserError
from triptych.evaluation.statistics import Interval, bootstrap_interval
from triptych.report.render import Figure, ReportConfig, Samples
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import generator
from triptych.telemetry.logging import get_logger
from tts_var.data import Benchmark, BenchmarkPrompt
from tts_var.evaluation import (
    EvaluationConfig,
    Outcome,
    OutcomeStore,
    by_category,
    evaluate_search,
    gain_over,
    per_prompt,
    reward_rank_correlation,
)
from tts_var.numerics.schedule import SearchConfig, memory_limit
from tts_var.search import Search

_logger = get_logger("evaluate")


@dataclass
class EvaluateConfig(RunConfig):
    """Settings of `var-evaluate`.

    Attributes:
        generator: the model (group `generator`).
        reward: what resampling and the final choice look at (group `reward`).
        features: what clustering and the diversity look at (group `features`).
        benchmark: prompts, and what counts as fulfilled (group `benchmark`).
        strategies: searches by name.
        only: names of the strategies to run; empty for all.
        evaluation: prompts and seeds.
        max_particles: prompts are run in batches that hold at most so many particles.
        memory_gib: the caches of a batch must fit into this.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "reward=checker": "reward=verifier",
    }

    generator: Any = MISSING
    reward: Any = MISSING
    features: Any = MISSING
    benchmark: Any = MISSING
    strategies: dict[str, SearchConfig] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    max_particles: int = 64
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in self.strategies]
        if unknown:
            raise UserError(f"only names '{unknown[0]}', which is no strategy: choose among {', '.join(self.strategies)}")


def _check(config: EvaluateConfig) -> None:
    """A benchmark that has not so many prompts says so here, before a model is loaded."""
    instantiate(config.benchmark).prompts(config.evaluation.num_prompts, seed=config.seed)


@entry_point("var", "evaluate", EvaluateConfig, check=_check)
def main(config: EvaluateConfig) -> None:
    """Evaluates every strategy and writes `summary.json`, one line per picture, and the report."""
    chosen = {name: config.strategies[name] for name in (config.only or config.strategies)}
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = instantiate(config.generator, device=run.device)
        reward = instantiate(config.reward, device=run.device)
        features = instantiate(config.features, device=run.device)
        benchmark = instantiate(config.benchmark)
        searches = {
            name: Search(
                model,
                settings,
                reward=reward,
                features=features,
                max_particles=config.max_particles,
                memory_bytes=memory_limit(config.memory_gib),
            )
            for name, settings in chosen.items()
        }
        size = benchmark.image_size
        if size is not None and model.image_size != (size, size):
            raise UserError(f"the generator draws pictures of {model.image_size} pixels: the benchmark reads {size} x {size}")
        prompts = benchmark.prompts(config.evaluation.num_prompts, seed=config.seed)
        model.check([prompt.text for prompt in prompts])
        store = OutcomeStore(run.world)
        run.begin({"outcomes": store})
        outcomes = store.outcomes
        scores: dict[str, Interval] = {}
        for step, (name, search) in enumerate(searches.items(), start=1):
            started = time.perf_counter()
            known = name in outcomes
            if not known:
                outcomes[name] = evaluate_search(search, benchmark, prompts, config.evaluation, features=features, world=run.world)
            scores[name] = bootstrap_interval(
                per_prompt(outcomes[name], len(prompts)),
                generator=generator(config.seed, "bootstrap", name),
                confidence=config.evaluation.confidence,
            )
            _logger.info("%-24s %s  (%.0f s)", name, scores[name].percent(), time.perf_counter() - started)
            if not known:
                run.log({f"score/{name}": scores[name].mean}, step=step)
                run.checkpoint(step, {"outcomes": store})
        correlation: list[float] = []
        if config.evaluation.correlation_prompts and run.world.is_main:
            texts = [prompt.text for prompt in prompts[: config.evaluation.correlation_prompts]]
            correlation = reward_rank_correlation(
                model,
                reward,
                texts,
                num_particles=config.evaluation.correlation_particles,
                seed=config.seed,
                max_particles=config.max_particles,
            )
        if run.world.is_main:
            _conclude(config, run, benchmark, prompts, outcomes, scores, correlation)
        run.world.barrier()


def _conclude(
    config: EvaluateConfig,
    run: Run,
    benchmark: Benchmark,
    prompts: Sequence[BenchmarkPrompt],
    outcomes: dict[str, list[Outcome]],
    scores: dict[str, Interval],
    correlation: list[float],
) -> None:
    strategies: dict[str, dict[str, Any]] = {}
    for name, rows in outcomes.items():
        spreads = [row.diversity for row in rows if row.diversity is not None]
        strategies[name] = {
            "score": scores[name].mean,
            "interval": list(scores[name][1:]),
            "num_samples": rows[0].num_samples,
            "tflops": sum(row.flops for row in rows) / len(rows) / 1e12,
            "tokens": sum(row.tokens for row in rows) / len(rows),
            "seconds": sum(row.seconds for row in rows) / len(rows),
            "any_correct": sum(row.any_correct for row in rows) / len(rows),
            "diversity": sum(spreads) / len(spreads) if spreads else None,
            "categories": by_category(per_prompt(rows, len(prompts)), prompts, benchmark.categories),
            "score_held_out": _mean_where(per_prompt(rows, len(prompts)), [prompt.held_out is True for prompt in prompts]),
            "score_seen": _mean_where(per_prompt(rows, len(prompts)), [prompt.held_out is False for prompt in prompts]),
            "effective_sample_sizes": [fmean(sizes) for sizes in zip(*(row.effective_sample_sizes for row in rows), strict=True)],
        }
    for name, settings in ((name, config.strategies[name]) for name in strategies):
        for rival, key in (("single", "over_single"), (_best_of(config, settings.num_images), "over_best_of")):
            if rival in strategies and rival != name:
                stream = generator(config.seed, "paired", name, rival)
                gain = gain_over(outcomes[rival], outcomes[name], len(prompts), generator=stream, confidence=config.evaluation.confidence)
                strategies[name][key] = gain._asdict()
    summary = {
        "seed": config.seed,
        "num_prompts": len(prompts),
        "seeds": config.evaluation.seeds,
        "strategies": strategies,
        "reward_rank_correlation": correlation,
    }
    lines = [
        json.dumps({"strategy": name, "text": prompts[row.prompt].text, **asdict(row)}) for name, rows in outcomes.items() for row in rows
    ]
    run.write_text("outcomes.jsonl", "".join(line + "\n" for line in lines))
    table = [
        (
            name,
            scores[name].percent(),
            str(row["num_samples"]),
            f"{1e3 * row['tflops']:.2f}",
            f"{row['seconds']:.3f}",
            f"{100 * row['any_correct']:.1f} %",
            "" if row["diversity"] is None else f"{row['diversity']:.3f}",
            _difference(row.get("over_single")),
            _difference(row.get("over_best_of")),
            *(f"{100 * row['categories'][category]:.0f} %" for category in benchmark.categories),
        )
        for name, row in strategies.items()
    ]
    columns = (
        "strategy",
        "score",
        "final pictures",
        "GFLOP",
        "seconds",
        "any final picture",
        "diversity",
        "over a single sample",
        "over Best-of-N",
        *benchmark.categories,
    )
    # Strategies without events are one family, Best-of-N; each of the others is a point or, with its variants in N, a curve.
    families: dict[str, list[str]] = {}
    for name in strategies:
        settings = config.strategies[name]
        family = "Best-of-N" if not settings.events else name.removesuffix(f"_{settings.num_images}")
        families.setdefault(family, []).append(name)
    figures = [
        Figure(
            "Share of prompts fulfilled",
            over,
            {
                family: sorted((factor * strategies[name][key], strategies[name]["score"], *strategies[name]["interval"]) for name in names)
                for family, names in families.items()
            },
            f"{config.evaluation.confidence:.0%} intervals",
        )
        for over, key, factor in (("final pictures N", "num_samples", 1.0), ("GFLOP per prompt", "tflops", 1e3))
    ]
    if correlation:
        figures.append(Figure("Rank correlation with the final reward", "scale", {"Spearman": list(enumerate(correlation))}))
    best = max(strategies, key=lambda name: strategies[name]["score"])
    report = run.finish(
        summary,
        report=ReportConfig(
            title=f"Search strategies: {config.name}",
            headline={"prompts": str(len(prompts)), "seeds": str(len(config.evaluation.seeds)), "best": best},
            notes=[
                "The score is the share of prompts whose chosen picture fulfils every part, over all prompts and seeds. Combinations of "
                "two objects, positions and bindings were held out of training; single objects, counts and colours are too few for that.",
                "Intervals are over prompts as they are drawn here: single objects, for instance, are five texts under many seeds.",
            ],
            figures=figures,
            samples=[Samples("Strategies, per prompt", columns, table)],
        ),
    )
    _logger.info("report             %s", report)


def _best_of(config: EvaluateConfig, num_images: int) -> str | None:
    """The strategy without events that ends with as many pictures, and more than one."""
    names = [name for name, settings in config.strategies.items() if not settings.events and settings.num_images == num_images > 1]
    return names[0] if names else None


def _mean_where(scores: Tensor, chosen: list[bool]) -> float | None:
    """None where nothing is chosen."""
    return float(scores[torch.tensor(chosen)].mean()) if any(chosen) else None


def _difference(interval: dict[str, float] | None) -> str:
    """A paired difference with its interval, in points."""
    if interval is None:
        return ""
    return f"{100 * interval['mean']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"


if __name__ == "__main__":
    main()
