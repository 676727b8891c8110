"""`python -m captain_cinema.evaluate`: who and what comes back right, by memory, length and gap, each beside its ceiling."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.utils import instantiate
from omegaconf import MISSING

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.evaluation import (
    EvaluationConfig,
    OutcomeStore,
    compare,
    evaluate_actions,
    evaluate_films,
    evaluate_returns,
    summarise,
    summarise_films,
)
from captain_cinema.keyframes import DrawingConfig, KeyframeSampler
from captain_cinema.video.mmdit import DiffusionClips
from triptych.cli import entry_point
from triptych.console import get_logger
from triptych.errors import UserError
from triptych.report.render import Figure, ReportConfig, Samples
from triptych.run import Run, RunConfig

_logger = get_logger("evaluate")


@dataclass
class EvaluateConfig(RunConfig):
    """Settings of `cinema-evaluate`.

    Attributes:
        model: the keyframe model (group `model`).
        video: what draws clips (group `video`); actions are read where its characters act.
        memories: memories by name (group `memory`).
        only: names of the memories to evaluate; empty for all.
        drawing: how keyframes are drawn.
        evaluation: stories, lengths, films and clips.
    """

    model: Any = MISSING
    video: Any = MISSING
    memories: dict[str, MemoryPolicy] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in self.memories]
        if unknown:
            raise UserError(f"only names '{unknown[0]}', which is no memory: choose among {', '.join(self.memories)}")
        if self.drawing.mode == "joint":
            raise UserError("drawing.mode is joint, which draws without a memory: evaluate extend or causal")


@entry_point("evaluate_cinema", EvaluateConfig)
def main(config: EvaluateConfig) -> None:
    """Evaluates every memory with one set of weights and writes `summary.json` and the report."""
    chosen = config.only or list(config.memories)
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = instantiate(config.model, device=run.device)
        video = instantiate(config.video) if config.evaluation.num_clips else None
        store = OutcomeStore(run.world)
        run.begin({"outcomes": store})
        for step, name in enumerate(chosen, start=1):
            if name in store.returns:
                continue
            started = time.perf_counter()
            sampler = KeyframeSampler(model, config.memories[name], config.drawing)
            store.returns[name] = evaluate_returns(sampler, config.evaluation, seed=config.seed, world=run.world)
            store.films[name] = evaluate_films(sampler, config.evaluation, seed=config.seed, world=run.world)
            found = summarise(store.returns[name], confidence=config.evaluation.confidence, seed=config.seed)
            _logger.info(
                "%-18s identity %.2f of %.2f  set %.2f of %.2f  colour %.2f  %4.0f tokens  (%.0f s)",
                name, found["identity"], found["identity_ceiling"], found["set"], found["set_ceiling"], found["colour"],
                found["tokens_per_shot"], time.perf_counter() - started,
            )  # fmt: skip
            run.log({f"{key}/{name}": found[key] for key in ("identity", "set", "colour")}, step=step)
            run.checkpoint(step, {"outcomes": store})
        if run.world.is_main:
            actions = {}
            if isinstance(video, DiffusionClips):
                actions = evaluate_actions(video, config.evaluation, seed=config.seed)
                _logger.info("actions            %s", ", ".join(f"{key} {value:.2f}" for key, value in actions.items()))
            _conclude(config, run, store, actions)
        run.world.barrier()


def _conclude(config: EvaluateConfig, run: Run, store: OutcomeStore, actions: dict[str, float]) -> None:
    memories = {
        name: summarise(rows, confidence=config.evaluation.confidence, seed=config.seed) | {"film": summarise_films(store.films[name])}
        for name, rows in store.returns.items()
    }
    compared = compare(store.returns, confidence=config.evaluation.confidence, seed=config.seed)
    summary = {
        "seed": config.seed,
        "num_stories": config.evaluation.num_stories,
        "memories": memories,
        "compared": compared,
        "actions": actions,
    }
    lines = [
        json.dumps({"memory": name, "length": length, **asdict(row)})
        for name, table in store.returns.items()
        for length, rows in table.items()
        for row in rows
    ]
    run.write_text("outcomes.jsonl", "".join(line + "\n" for line in lines))
    columns = (
        "memory", "tokens per shot", "seconds per shot", "identity", "its interval", "its ceiling", "set", "its interval", "its ceiling",
        "colour", "shape", "hat", "badge", "shows both", "film: as at first",
    )  # fmt: skip
    table = [
        (
            name,
            f"{row['tokens_per_shot']:.0f}",
            f"{row['seconds_per_shot']:.3f}",
            *(
                cell
                for part in ("identity", "set")
                for cell in (
                    f"{row[part]:.2f}",
                    "{:.2f} to {:.2f}".format(*row[f"{part}_interval"]),
                    f"{row[f'{part}_ceiling']:.2f}",
                )
            ),
            *(f"{row[part]:.2f}" for part in ("colour", "shape", "hat", "badge", "covered")),
            f"{row['film']['same_identity']:.2f}" if row["film"] else "",
        )
        for name, row in memories.items()
    ]
    figures = [
        Figure(
            f"{part.capitalize()} right",
            "shots of the past",
            {name: [(float(length), own[part]) for length, own in row["by_length"].items()] for name, row in memories.items()},
        )
        for part in ("identity", "set", "colour")
    ]
    figures += [
        Figure(
            f"{part.capitalize()} right",
            "shots since last seen (nearest of each span)",
            {
                name: [(float(span.split("-")[0].rstrip("+")), own[part]) for span, own in row["by_gap"].items() if own[part] is not None]
                for name, row in memories.items()
            },
        )
        for part in ("identity", "set")
    ]
    best = max(memories, key=lambda name: memories[name]["identity"])
    samples = [Samples("Memories, one set of weights", columns, table)]
    if compared:
        gains = [
            (
                row["memory"],
                row["against"],
                *("{:+.2f} [{:+.2f}, {:+.2f}]".format(row[part], *row[f"{part}_interval"]) for part in ("identity", "set")),
            )
            for row in compared
        ]
        samples.append(Samples("Gains, paired by story", ("memory", "against", "identity", "set"), gains))
    if actions:
        samples.append(
            Samples("Clips whose action is recognised", ("action", "share"), [(key, f"{value:.2f}") for key, value in actions.items()])
        )
    report = run.finish(
        summary,
        report=ReportConfig(
            title=f"Memories: {config.name}",
            headline={"stories per length": str(config.evaluation.num_stories), "best identity": best},
            notes=[
                "A shot is drawn after a story's true past; whoever returns is named, not described. The ceiling is what a reader "
                "that knows everything else could tell from the same memory at its size and noise.",
                "Uniform downsampling at as many tokens is the honest rival of GoldenMem, and retrieval decides more than compression: "
                "compare golden with uniform_retrieved, and golden_time with uniform. At equal shots GoldenMem saves tokens; it "
                "does not know more than the full memory.",
            ],
            figures=figures,
            samples=samples,
        ),
    )  # fmt: skip
    _logger.info("report             %s", report)


if __name__ == "__main__":
    main()
