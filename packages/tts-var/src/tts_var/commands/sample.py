"""`python -m tts_var.commands.sample`: samples images for prompts with test-time search, and writes a page of the search."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from omegaconf import MISSING

from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.commands.messages import choice_name
from triptych.errors import UserError
from triptych.evaluation.runner import evaluate_sharded
from triptych.report import ReportConfig
from triptych.run.config import RunConfig
from triptych.run.provenance import provenance
from triptych.run.secret import without_secrets
from triptych.run.session import Run
from triptych.seeding import derive_seed
from triptych.telemetry.logging import get_logger
from tts_var.data.prompts import read_prompts
from tts_var.images import save_png
from tts_var.models import NextScaleModel
from tts_var.numerics.schedule import SearchConfig, memory_limit
from tts_var.report.search_page import images_section, search_section
from tts_var.scorers import Verdict
from tts_var.search import Search, SearchResult

_logger = get_logger("sample")

_SHOWN = 200  # images on the page; more would make it tens of megabytes at the size of a large model
IMAGE_FOLDER = "pictures"
"""Subfolder of a run with the images."""


@dataclass
class SampleConfig(RunConfig):
    """Settings of `var-sample`.

    Attributes:
        prompts: one prompt, several, or the path of a text file with one per line.
        images_per_prompt: searches per prompt, each with a seed of its own; equal prompts of a list give equal images.
        generator: the model (group `generator`).
        reward: scores images for resampling and the final choice (group `reward`).
        features: of images, for clustering (group `features`).
        search: the search (group `search`).
        verifier: checks the parts of a prompt in the chosen image (group `verifier`).
        max_particles: largest number of particles in a batch of prompts.
        memory_gib: limit for the caches of a batch.
        page_prompts: number of first searches that are drawn in the report; 0 for none. Drawing decodes an image of every live particle
            after each scale at which the search decodes none.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "reward=checker": "reward=verifier",
    }

    prompts: Any = MISSING
    images_per_prompt: int = 1
    generator: Any = MISSING
    reward: Any = MISSING
    features: Any = MISSING
    search: SearchConfig = field(default_factory=SearchConfig)
    verifier: Any = MISSING
    max_particles: int = 64
    memory_gib: float = 4.0
    page_prompts: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page_prompts < 0:
            raise UserError(f"page_prompts is {self.page_prompts}: it must be 0 (no drawing) or more")
        if self.images_per_prompt < 1:
            raise UserError(f"images_per_prompt is {self.images_per_prompt}: it must be 1 or more")


@entry_point("var", "sample", SampleConfig)
def main(config: SampleConfig) -> None:
    """Samples the images and writes them with `samples.jsonl` and the report into the run's folder."""
    jobs = _jobs(config)
    tracker = None if config.tracker is None else build(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = build(config.generator, device=run.device)
        search = Search(
            model,
            config.search,
            reward=build(config.reward, device=run.device),
            features=build(config.features, device=run.device),
            max_particles=config.max_particles,
            memory_bytes=memory_limit(config.memory_gib),
        )
        model.check([job.prompt for job in jobs])  # refuses a prompt before a file is written
        verifier = build(config.verifier)
        run.begin({})
        _warn_of_equal_jobs([job for job in jobs if job.seed == config.seed])
        started = time.perf_counter()
        results = evaluate_sharded(len(jobs), partial(_sample, config, search, jobs), run.world)
        if run.world.is_main:
            verdicts = [verifier(result.image, result.prompt) for result in results]
            _conclude(config, run, model, jobs, results, verdicts, time.perf_counter() - started)
        run.world.barrier()


class _Job(NamedTuple):
    """One search."""

    prompt: str
    seed: int


def _jobs(config: SampleConfig) -> list[_Job]:
    """The searches, those of one prompt in turn; the first search of a prompt has the seed of the run."""
    seeds = [derive_seed(config.seed, "image", number) if number else config.seed for number in range(config.images_per_prompt)]
    return [_Job(prompt, seed) for prompt in read_prompts(config.prompts) for seed in seeds]


def _warn_of_equal_jobs(jobs: Sequence[_Job]) -> None:
    for job, count in Counter(jobs).items():
        if count > 1:
            _logger.warning(
                "'%s' is given %d times and gives equal images: images_per_prompt=%d gives different ones", job.prompt, count, count
            )


def _sample(config: SampleConfig, search: Search, jobs: Sequence[_Job], shard: range) -> list[SearchResult]:
    """The searches of a shard; the first ones record every scale for the report."""
    results: list[SearchResult] = []
    traced = range(shard.start, max(shard.start, min(shard.stop, config.page_prompts)))
    for part, trace in ((traced, True), (range(traced.stop, shard.stop), False)):
        own = [jobs[index] for index in part]
        if not own:
            continue
        for result in search.stream([job.prompt for job in own], seeds=[job.seed for job in own], trace=trace):
            results.append(result)
            if len(results) % 50 == 0:
                _logger.info("%d of %d searches", len(results), len(shard))
    return results


def _conclude(
    config: SampleConfig,
    run: Run,
    model: NextScaleModel,
    jobs: Sequence[_Job],
    results: list[SearchResult],
    verdicts: list[Verdict],
    seconds: float,
) -> None:
    settings = {**asdict(config.search), "model": choice_name(config.generator)}
    made = {key: value for key, value in provenance().items() if key in ("commit", "versions")}
    generator = without_secrets(config.generator)
    metadata = {"search": settings, "generator": generator, "made": made}
    with run.staging(IMAGE_FOLDER) as folder:
        rows = [
            _write_images(folder, {"seed": job.seed, **metadata}, index, result, verdict)
            for index, (job, result, verdict) in enumerate(zip(jobs, results, verdicts, strict=True))
        ]
    run.write_file("samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    summary = summarize(results, verdicts, seconds=seconds)
    run.log({key: float(value) for key, value in summary.items()}, step=1)
    texts = [_verdict_text(verdict) for verdict in verdicts]
    headline = {"images": str(len(results)), "fulfilled": f"{summary['correct']} of {summary['checked']}", "seconds": f"{seconds:.1f}"}
    sections = [images_section(results[:_SHOWN], verdicts[:_SHOWN], [str(row["file"]) for row in rows[:_SHOWN]])]
    if config.page_prompts:
        sections.append(search_section(results[: config.page_prompts], model.scales))
    notes = [f"The first {_SHOWN} of {len(results)} images; all are in {IMAGE_FOLDER}/."] if len(results) > _SHOWN else []
    page = run.finish(summary, report=ReportConfig(title=f"Samples: {config.name}", headline=headline, sections=sections, notes=notes))
    for result, text in zip(results, texts, strict=True):
        _logger.info("%-44s %s", result.prompt, text)
    _logger.info("images             %s", run.directory / IMAGE_FOLDER)
    _logger.info("report             %s", page)


def _write_images(folder: Path, metadata: Mapping[str, Any], index: int, result: SearchResult, verdict: Verdict) -> dict[str, Any]:
    """Writes the final images of a prompt, the chosen one first and under the plain name; returns the row of samples.jsonl."""
    # 0007.png is the chosen image of prompt 7; 0007_1.png and so on are the others in order.
    order = [result.chosen, *(position for position in range(len(result.images)) if position != result.chosen)]
    names = [f"{index:04d}.png", *(f"{index:04d}_{number}.png" for number in range(1, len(order)))]
    for name, position in zip(names, order, strict=True):
        own = {
            "prompt": result.prompt,
            "lineage": list(result.lineages[position]),
            "reward": result.rewards[position] if result.rewards else None,
        }
        save_png(folder / name, result.images[position], {**metadata, **own})
    return {
        "prompt": result.prompt,
        "seed": metadata["seed"],
        "file": f"{IMAGE_FOLDER}/{names[0]}",
        "others": [f"{IMAGE_FOLDER}/{name}" for name in names[1:]],
        "reward": result.reward,
        "rewards": list(result.rewards),
        "lineage": list(result.lineage),
        "verdict": dict(verdict.parts),
        "note": verdict.note,
        "flops": result.cost.flops,
        "decodes": result.cost.num_decodes,
        "seconds": result.cost.seconds,
        "events": [asdict(event) for event in result.events],
    }


def summarize(results: Sequence[SearchResult], verdicts: Sequence[Verdict], *, seconds: float) -> dict[str, Any]:
    """Counts of prompts, of verified prompts and of fulfilled ones, and the cost of the searches."""
    verified = [verdict.correct for verdict in verdicts if verdict.parts]
    return {
        "num_prompts": len(results),
        "correct": sum(verified),
        "checked": len(verified),
        "tflops": sum(result.cost.flops for result in results) / 1e12,
        "seconds": seconds,
    }


def _verdict_text(verdict: Verdict) -> str:
    missing = [part for part, holds in verdict.parts.items() if not holds]
    if missing:
        return f"missing: {', '.join(missing)}"
    return "fulfilled" if verdict.parts else f"not checked{f': {verdict.note}' if verdict.note else ''}"


if __name__ == "__main__":
    main()
