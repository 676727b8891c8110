"""`python -m captain_cinema.commands.evaluate`: benchmark of memory policies with one set of weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.evaluation import MemoryBenchmark
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.errors import UserError
from triptych.evaluation.runner import EvaluationRunner
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.telemetry.logging import get_logger

_logger = get_logger("evaluate")


@dataclass
class EvaluateConfig(RunConfig):
    """Settings of `cinema-evaluate`.

    Attributes:
        model: the keyframe model (group `model`).
        video: the video generator (group `video`); actions are evaluated if it animates characters.
        memories: memories by name (group `memory`).
        only: names of the memories to evaluate; empty for all.
        sampling: steps and mode of the keyframe sampler.
        evaluation: the benchmark with its settings, as a Hydra node.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "drawing": "sampling",
        "evaluation.gap_law": "evaluation.gap_distribution",
    }

    model: Any = MISSING
    video: Any = MISSING
    memories: dict[str, MemoryPolicy] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: Any = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in self.memories]
        if unknown:
            raise UserError(f"only names '{unknown[0]}', which is not a memory: choose among {', '.join(self.memories)}")
        if self.sampling.mode == "joint":
            raise UserError("sampling.mode is joint, which has no memory: use sampling.mode=extend or causal")


def _check(config: EvaluateConfig) -> None:
    """Checks the settings of the benchmark before a model is loaded."""
    build(config.evaluation)


@entry_point("cinema", "evaluate", EvaluateConfig, check=_check)
def main(config: EvaluateConfig) -> None:
    """Evaluates every memory with one set of weights and writes `summary.json` and the report."""
    chosen = config.only or list(config.memories)
    tracker = None if config.tracker is None else build(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        benchmark: MemoryBenchmark = build(config.evaluation)
        model = build(config.model, device=run.device)
        video = build(config.video, device=run.device)

        def evaluate(name: str) -> dict[str, Any]:
            sampler = KeyframeSampler(model, config.memories[name], config.sampling, image_size=benchmark.image_size)
            return benchmark.evaluate(sampler, seed=config.seed, world=run.world)

        runner = EvaluationRunner(run.world)
        run.begin({"outcomes": runner})
        for step, name, outcomes, seconds in runner.evaluate(chosen, evaluate):
            if seconds is None:
                continue
            found = benchmark.metrics(outcomes, seed=config.seed)
            text = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
            _logger.info("%-18s %s  (%.0f s)", name, text, seconds)
            run.log({f"{key}/{name}": value for key, value in found.items()}, step=step)
            run.checkpoint(step, {"outcomes": runner})
        if run.world.is_main:
            actions = benchmark.evaluate_video(video, seed=config.seed)
            if actions:
                _logger.info("actions            %s", ", ".join(f"{key} {value:.2f}" for key, value in actions.items()))
            conclusion = benchmark.conclude(runner.outcomes, actions, seed=config.seed, name=config.name)
            run.write_file("outcomes.jsonl", "".join(json.dumps(row) + "\n" for row in conclusion.rows))
            _logger.info("report             %s", run.finish(conclusion.summary, report=conclusion.report))
        run.world.barrier()


if __name__ == "__main__":
    main()
