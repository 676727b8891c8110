"""`python -m tts_var.sample`: pictures for prompts, with a search at test time, and a page that shows it."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import MISSING

from triptych.checkpoint import describe_disk_error
from triptych.cli import choice_name, entry_point
from triptych.console import get_logger
from triptych.errors import UserError
from triptych.provenance import provenance
from triptych.report.render import ReportConfig, Samples
from triptych.run import Run, RunConfig
from tts_var.batch_schedule import SearchConfig, memory_limit
from tts_var.data.checker import check_image
from tts_var.data.prompts import parse_prompt
from tts_var.pictures import save_png
from tts_var.report.search_page import render_search_page
from tts_var.search import Search, SearchResult

_logger = get_logger("sample")

DEFAULT_PROMPTS = (
    "a red circle",
    "two squares",
    "a triangle above a cross",
    "a blue square and a yellow ring",
    "three green triangles",
    "two red circles left of a blue square",
)


@dataclass
class SampleConfig(RunConfig):
    """Settings of `var-sample`.

    Attributes:
        prompts: one prompt, several, or the path of a text file with one per line; null for six examples.
        generator: the model (group `generator`).
        reward: what resampling and the final choice look at (group `reward`).
        features: what clustering looks at (group `features`).
        search: the search (group `search`).
        max_particles: prompts are run in batches that hold at most so many particles.
        memory_gib: the caches of a batch must fit into this.
        page_prompts: prompts, the first ones, whose search is shown in `search.html`; 0 for no page. Showing a search
            takes a picture of every live particle after each scale.
    """

    prompts: Any = None
    generator: Any = MISSING
    reward: Any = MISSING
    features: Any = MISSING
    search: SearchConfig = field(default_factory=SearchConfig)
    max_particles: int = 64
    memory_gib: float = 4.0
    page_prompts: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page_prompts < 0:
            raise UserError(f"page_prompts is {self.page_prompts}: it must be 0 (no page) or more")


@entry_point("sample_var", SampleConfig)
def main(config: SampleConfig) -> None:
    """Draws the pictures and writes them with `samples.jsonl` and the page into the run's folder."""
    prompts = read_prompts(config.prompts)
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model = instantiate(config.generator, device=run.device)
        search = Search(
            model,
            config.search,
            reward=instantiate(config.reward),
            features=instantiate(config.features),
            max_particles=config.max_particles,
            memory_bytes=memory_limit(config.memory_gib),
        )
        model.encode(prompts)  # an unknown word is told before anything is written
        run.begin({})
        started = time.perf_counter()
        share = run.world.share(len(prompts))
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
            _write(config, run, model, results, time.perf_counter() - started)
        run.world.barrier()


def read_prompts(value: Any) -> list[str]:
    """Prompts from a config value: a text, a list of texts, the path of a text file, or None for six examples.

    Raises:
        UserError: if the file cannot be read or holds no prompt.
    """
    if value is None:
        return list(DEFAULT_PROMPTS)
    if isinstance(value, list | tuple):
        prompts = [str(item).strip() for item in value]
    else:
        text = str(value)
        path = Path(text)
        if path.suffix in (".txt", ".prompts") or _is_file(path):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except OSError as error:
                raise UserError(
                    f"prompts={path} cannot be read ({describe_disk_error(error)}): give a text file, or the prompt itself"
                ) from error
            except UnicodeDecodeError as error:
                raise UserError(f"prompts={path} is no UTF-8 text: save it as plain text with one prompt per line") from error
            prompts = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        else:
            prompts = [text.strip()]
    if not [prompt for prompt in prompts if prompt]:
        raise UserError(f"prompts={value} holds no prompt: write one per line")
    return prompts


def _write(config: SampleConfig, run: Run, model: Any, results: list[SearchResult], seconds: float) -> None:
    search = {**asdict(config.search), "model": choice_name(config.generator)}
    pictures = run.directory / "pictures"
    pictures.mkdir(exist_ok=True)
    made = {key: value for key, value in provenance().items() if key in ("commit", "versions")}
    rows, verdicts, notes = [], [], []
    for index, result in enumerate(results):
        verdict, note = verdict_of(result)
        verdicts.append(verdict)
        notes.append(note)
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
                "verdict": verdict,
                "note": note,
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
        first = results[: config.page_prompts]
        run.write_text("search.html", render_search_page(title, first, model.scales, verdicts=verdicts[: len(first)], settings=shown))
    checked = [all(verdict.values()) for verdict in verdicts if verdict]
    summary = {
        "num_prompts": len(results),
        "correct": sum(checked),
        "checked": len(checked),
        "tflops": sum(result.cost.flops for result in results) / 1e12,
        "seconds": seconds,
    }
    headline = {"prompts": str(len(results)), "fulfilled": f"{sum(checked)} of {len(checked)}", "seconds": f"{seconds:.1f}"}
    told = []
    for verdict, note in zip(verdicts, notes, strict=True):
        missing = [part for part, holds in verdict.items() if not holds]
        told.append(f"missing: {', '.join(missing)}" if missing else "fulfilled" if verdict else f"not checked: {note}")
    run.log({key: float(value) for key, value in summary.items()}, step=1)
    table = [(str(row["file"]), result.prompt, text) for row, result, text in zip(rows, results, told, strict=True)]
    samples = [Samples("Pictures", ("file", "prompt", "checker"), table)]
    run.finish(summary, report=ReportConfig(title=f"Samples: {config.name}", headline=headline, samples=samples))
    for result, text in zip(results, told, strict=True):
        _logger.info("%-44s %s", result.prompt, text)
    _logger.info("pictures           %s", pictures)
    if config.page_prompts:
        _logger.info("search             %s", run.directory / "search.html")


def verdict_of(result: SearchResult) -> tuple[dict[str, bool], str]:
    """The checker's verdict; or nothing, and why: the prompt is no sentence of the small world, or the picture of another size."""
    try:
        return check_image(result.image, parse_prompt(result.prompt)).parts, ""
    except ValueError as error:
        return {}, str(error)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a prompt may be longer than any file name
        return False


if __name__ == "__main__":
    main()
