"""`python -m tts_var.commands.evaluate`: score and cost of every search strategy on a benchmark."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.errors import UserError
from triptych.evaluation.runner import EvaluationRunner
from triptych.evaluation.statistics import Interval
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.telemetry.logging import get_logger
from tts_var.data import Benchmark, BenchmarkPrompt
from tts_var.evaluation import EvaluationConfig, Outcome, evaluate_search, reward_rank_correlation, score_interval, summarize
from tts_var.models import NextScaleModel
from tts_var.numerics.schedule import SearchConfig, memory_limit
from tts_var.report.evaluation_page import evaluation_report
from tts_var.scorers import Features, Reward
from tts_var.search import Search

_logger = get_logger("evaluate")


@dataclass
class EvaluateConfig(RunConfig):
    """Settings of `var-evaluate`.

    Attributes:
        generator: the model (group `generator`).
        reward: scores images for resampling and the final choice (group `reward`).
        features: image features for clustering and diversity (group `features`).
        benchmark: prompts and the score of an image (group `benchmark`).
        strategies: searches by name.
        only: names of the strategies to run; empty for all.
        evaluation: number of prompts, seeds and confidence.
        max_particles: largest number of particles in a batch of prompts.
        memory_gib: limit for the caches of a batch.
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
            raise UserError(f"only names '{unknown[0]}', which is not a strategy: choose among {', '.join(self.strategies)}")


def _check(config: EvaluateConfig) -> None:
    """Checks that the benchmark has `num_prompts` prompts before a model is loaded."""
    build(config.benchmark).prompts(config.evaluation.num_prompts, seed=config.seed)


@entry_point("var", "evaluate", EvaluateConfig, check=_check)
def main(config: EvaluateConfig) -> None:
    """Evaluates every strategy and writes `summary.json`, one line per image, and the report."""
    chosen = {name: config.strategies[name] for name in (config.only or config.strategies)}
    settings = config.evaluation
    tracker = None if config.tracker is None else build(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = build(config.generator, device=run.device)
        reward = build(config.reward, device=run.device)
        features = build(config.features, device=run.device)
        benchmark: Benchmark = build(config.benchmark)
        searches = {name: _search(config, model, chosen[name], reward, features) for name in chosen}
        size = benchmark.image_size
        if size is not None and model.image_size != (size, size):
            raise UserError(f"the generator makes images of {model.image_size} pixels: the benchmark reads {size} x {size}")
        prompts = benchmark.prompts(settings.num_prompts, seed=config.seed)
        model.check([prompt.text for prompt in prompts])

        def evaluate(name: str) -> list[dict[str, Any]]:
            found = evaluate_search(searches[name], benchmark, prompts, settings, features=features, world=run.world)
            return [outcome.to_json() for outcome in found]

        runner = EvaluationRunner(run.world)
        run.begin({"outcomes": runner})
        outcomes: dict[str, list[Outcome]] = {}
        scores: dict[str, Interval] = {}
        for step, name, rows, seconds in runner.evaluate(list(chosen), evaluate):
            outcomes[name] = [Outcome.from_json(row) for row in rows]
            scores[name] = score_interval(outcomes[name], len(prompts), name=name, seed=config.seed, confidence=settings.confidence)
            _logger.info("%-24s %s  (%.0f s)", name, scores[name].percent(), seconds or 0.0)
            if seconds is not None:
                run.log({f"score/{name}": scores[name].mean}, step=step)
                run.checkpoint(step, {"outcomes": runner})
        if run.world.is_main:
            correlation = _correlation(config, model, reward, [prompt.text for prompt in prompts[: settings.correlation_prompts]])
            _conclude(config, run, benchmark, prompts, outcomes, scores, correlation)
        run.world.barrier()


def _search(config: EvaluateConfig, model: NextScaleModel, settings: SearchConfig, reward: Reward, features: Features) -> Search:
    memory = memory_limit(config.memory_gib)
    return Search(model, settings, reward=reward, features=features, max_particles=config.max_particles, memory_bytes=memory)


def _correlation(config: EvaluateConfig, model: NextScaleModel, reward: Reward, prompts: Sequence[str]) -> list[float]:
    """Rank correlation of early and final rewards; empty for no prompts."""
    if not prompts:
        return []
    num_particles = config.evaluation.correlation_particles
    return reward_rank_correlation(
        model, reward, prompts, num_particles=num_particles, seed=config.seed, max_particles=config.max_particles
    )


def _conclude(
    config: EvaluateConfig,
    run: Run,
    benchmark: Benchmark,
    prompts: Sequence[BenchmarkPrompt],
    outcomes: Mapping[str, Sequence[Outcome]],
    scores: Mapping[str, Interval],
    correlation: Sequence[float],
) -> None:
    confidence = config.evaluation.confidence
    strategies = summarize(outcomes, scores, config.strategies, prompts, benchmark.categories, seed=config.seed, confidence=confidence)
    lines = [{"strategy": name, "text": prompts[row.prompt].text, **row.to_json()} for name, rows in outcomes.items() for row in rows]
    run.write_file("outcomes.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "seed": config.seed,
        "num_prompts": len(prompts),
        "seeds": config.evaluation.seeds,
        "strategies": strategies,
        "reward_rank_correlation": correlation,
        "agreement": None if benchmark.agreement is None else asdict(benchmark.agreement),
    }
    page = evaluation_report(
        config.name,
        strategies,
        [name for name in strategies if not config.strategies[name].events],
        benchmark,
        sizes=(len(prompts), len(config.evaluation.seeds)),
        correlation=correlation,
        confidence=confidence,
    )
    _logger.info("report             %s", run.finish(summary, report=page))


if __name__ == "__main__":
    main()
