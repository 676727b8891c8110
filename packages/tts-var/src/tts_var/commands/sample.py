"""`python -m tts_var.commands.sample`: pictures for prompts, with a search at test time, and a page that shows it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from hydra.utils import instantiate
from omegaconf import MISSING

from triptych.commands.entry_point import entry_point
from triptych.commands.messages import choice_name
from triptych.errors import UserError
from triptych.report.render import ReportConfig, Samples
from triptych.run.config import RunConfig
from triptych.run.provenance import provenance
from triptych.run.session import Run
from triptych.telemetry.logging import get_logger
from tts_var.data.prompts import read_prompts
from tts_var.images import save_png
from tts_var.models import NextScaleModel
from tts_var.numerics.schedule import SearchConfig, memory_limit
from tts_var.report.search_page import render_search_page
from tts_var.scorers import Verdict
from tts_var.search import Search, SearchResult

_logger = get_logger("sample")


@dataclass
class SampleConfig(RunConfig):
    """Settings of `var-sample`.

    Attributes:
        prompts: one prompt, several, or the path of a text file with one per line.
        generator: the model (group `generator`).
        reward: what resampling and the final choice look at (group `reward`).
        features: what clustering looks at (group `features`).
        search: the search (group `search`).
        verifier: says which parts of a prompt hold in the chosen picture (group `verifier`).
        max_particles: prompts are run in batches that hold at most so many particles.
        memory_gib: the caches of a batch must fit into this.
        page_prompts: prompts, the first ones, whose search is shown in `search.html`; 0 for no page. Showing a search
            takes a picture of every live particle after each scale.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "reward=checker": "reward=verifier",
    }

    prompts: Any = MISSING
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
            raise UserError(f"page_prompts is {self.page_prompts}: it must be 0 (no page) or more")


@entry_point("var", "sample", SampleConfig)
def main(config: SampleConfig) -> None:
    """Samples the pictures and writes them with `samples.jsonl` and the page into the run's folder."""
    prompts = read_prompts(config.prompts)
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = instantiate(config.generator, device=run.device)
        search = Search(
            model,
            config.search,
            reward=instantiate(config.reward, device=run.device),
            features=instantiate(config.features, device=run.device),
            max_particles=config.max_particles,
            memory_bytes=memory_limit(config.memory_gib),
        )
        model.check(prompts)  # before anything is written
        verifier = instantiate(config.verifier)
        run.begin({})
        started = time.perf_counter()
        share = run.world.shard(len(prompts))
        mine = []
        for traced, part in (
            (True, [i for i in share if i < config.page_prompts]),
            (False, [i for i in share if i >= config.page_prompts]),
        ):
            for result in search.stream([prompts[index] for index in part], seed=config.seed, trace=traced):
                mine.append(result)
                if len(mine) % 50 == 0:
                    _logger.info("%d of %d prompts", len(mine), len(share))
        gathered = run.world.gather_objects(list(zip(share, mine, strict=True)))
        if run.world.is_main:
            results = [result for _, result in sorted(gathered, key=lambda pair: pair[0])]
            verdicts = [verifier(result.image, result.prompt) for result in results]
            _write(config, run, model, results, verdicts, time.perf_counter() - started)
        run.world.barrier()


def _write(
    config: SampleConfig, run: Run, model: NextScaleModel, results: list[SearchResult], verdicts: list[Verdict], seconds: float
) -> None:
    search = {**asdict(config.search), "model": choice_name(config.generator)}
    pictures = run.directory / "pictures"
    pictures.mkdir(exist_ok=True)
    made = {key: value for key, value in provenance().items() if key in ("commit", "versions")}
    rows = []
    for index, (result, verdict) in enumerate(zip(results, verdicts, strict=True)):
        # The chosen picture comes first and carries the plain name.
        order = [result.chosen, *(place for place in range(len(result.images)) if place != result.chosen)]
        names = [f"{index:04d}.png", *(f"{index:04d}_{place}.png" for place in range(1, len(order)))]
        for name, place in zip(names, order, strict=True):
            facts = {
                "prompt": result.prompt,
                "seed": config.seed,
                "lineage": list(result.lineages[place]),
                "reward": result.rewards[place] if result.rewards else None,
                "search": search,
                "generator": config.generator,
                "made": made,
            }
            save_png(pictures / name, result.images[place], facts)
        rows.append(
            {
                "prompt": result.prompt,
                "seed": config.seed,
                "file": f"pictures/{names[0]}",
                "others": [f"pictures/{name}" for name in names[1:]],
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
        )
    run.write_text("samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if config.page_prompts:
        shown = {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in search.items()}
        shown |= {"seed": str(config.seed), "generator": json.dumps(config.generator)}
        title = f"Search: {config.name}"
        first, parts = results[: config.page_prompts], [verdict.parts for verdict in verdicts[: config.page_prompts]]
        run.write_text("search.html", render_search_page(title, first, model.scales, verdicts=parts, settings=shown))
    checked = [verdict.correct for verdict in verdicts if verdict.parts]
    summary = {
        "num_prompts": len(results),
        "correct": sum(checked),
        "checked": len(checked),
        "tflops": sum(result.cost.flops for result in results) / 1e12,
        "seconds": seconds,
    }
    headline = {"prompts": str(len(results)), "fulfilled": f"{sum(checked)} of {len(checked)}", "seconds": f"{seconds:.1f}"}
    told = [_in_words(verdict) for verdict in verdicts]
    run.log({key: float(value) for key, value in summary.items()}, step=1)
    table = [(str(row["file"]), result.prompt, text) for row, result, text in zip(rows, results, told, strict=True)]
    samples = [Samples("Pictures", ("file", "prompt", "checker"), table)]
    run.finish(summary, report=ReportConfig(title=f"Samples: {config.name}", headline=headline, samples=samples))
    for result, text in zip(results, told, strict=True):
        _logger.info("%-44s %s", result.prompt, text)
    _logger.info("pictures           %s", pictures)
    if config.page_prompts:
        _logger.info("search             %s", run.directory / "search.html")


def _in_words(verdict: Verdict) -> str:
    missing = [part for part, holds in verdict.parts.items() if not holds]
    if missing:
        return f"missing: {', '.join(missing)}"
    return "fulfilled" if verdict.parts else f"not checked{f': {verdict.note}' if verdict.note else ''}"


if __name__ == "__main__":
    main()
