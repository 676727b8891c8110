"""Sections of a sample report: the chosen images with their verdicts, and the search of each prompt, scale by scale."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from triptych.report import Section
from triptych.report.page import environment
from tts_var.images import data_uri
from tts_var.numerics.scales import ScaleTable
from tts_var.scorers import Verdict
from tts_var.search import EventRecord, SearchCost, SearchResult

# Pixels of the drawing: a row has a line of text, its images with the numbers below, and room for the links.
_CELL, _IMAGE, _TEXT, _ROW = 68, 60, 16, 110
_NARROWEST = 480  # room for the text of a row
_BELOW_NUMBERS = _TEXT + _IMAGE + 16  # a link starts below the numbers of its image

_Link = tuple[int, int, int, int, bool]  # x and y of both ends, and whether it leads to the chosen image
_Scores = dict[int, tuple[float, float | None]]  # column -> reward, weight


class _Particle(NamedTuple):
    """One thumbnail: its position on the page, its fate, reward and weight."""

    uri: str
    x: int
    y: int
    column: int
    fate: str
    copies: int
    reward: str
    weight: str


class _Scale(NamedTuple):
    """One row of thumbnails."""

    text: str
    y: int
    particles: list[_Particle]


class _Tree(NamedTuple):
    """The search of one prompt."""

    prompt: str
    width: int
    height: int
    scales: list[_Scale]
    links: list[_Link]
    cost: list[tuple[str, str]]


class _Card(NamedTuple):
    """One chosen image."""

    uri: str
    prompt: str
    file: str
    reward: str
    verdict: Verdict


def images_section(results: Sequence[SearchResult], verdicts: Sequence[Verdict], files: Sequence[str]) -> Section:
    """The chosen image of every search, with its prompt, verdict, reward and file; all text is escaped.

    Args:
        results: searches.
        verdicts: one per search.
        files: path of each chosen image, relative to the page.
    """
    cards = [
        _Card(data_uri(result.image), result.prompt, file, "" if result.reward is None else f"{result.reward:.2f}", verdict)
        for result, verdict, file in zip(results, verdicts, files, strict=True)
    ]
    return _section("images", cards=cards)


def search_section(results: Sequence[SearchResult], scales: ScaleTable) -> Section:
    """The tree of every search, with a legend; all text is escaped.

    Args:
        results: searches that were run with `trace`.
        scales: the model's grids.
    """
    return _section("search", trees=[_tree(result, scales) for result in results], image=_IMAGE, text=_TEXT)


def _section(name: str, **contents: object) -> Section:
    templates = environment("tts_var")
    return Section(templates.get_template(f"{name}.html").render(**contents), templates.get_template(f"{name}.css").render())


def _tree(result: SearchResult, scales: ScaleTable) -> _Tree:
    """Layout of one search: a row per scale, a column per particle, and links from each particle to its parent.

    Particles are columns in the order of their batch. An event keeps columns of its batch, possibly several times: the batch of
    the next scale is `survivors`, and column j there continues column `survivors[j]` here.
    """
    rows: list[_Scale] = []
    links: list[_Link] = []
    parents: list[int] | None = None  # for each column of this scale the column of the scale before that it continues
    for scale, images in enumerate(result.thumbnails):
        events = [event for event in result.events if event.scale == scale]
        survivors, fates = _follow(len(images), events)
        scored = _scored(len(images), events)
        if scale == len(result.thumbnails) - 1:
            for column, reward in zip(survivors, result.rewards, strict=False):
                scored.setdefault(column, (reward, None))
                if column != result.lineage[scale]:
                    fates[column] = "not-chosen"
        y = scale * _ROW
        winner = result.lineage[scale] if scale < len(result.lineage) else None
        text = "; ".join((f"scale {scale}: {_grid(scales, scale)}", *_notes(events, len(images))))
        rows.append(_Scale(text, y, _particles(images, survivors, fates, scored, winner, y)))
        if parents is not None:
            links += _links(parents, y, winner, None if winner is None else result.lineage[scale - 1])
        parents = survivors
    widest = max((len(images) for images in result.thumbnails), default=1)
    return _Tree(
        prompt=str(result.prompt),
        width=max(_NARROWEST, widest * _CELL),
        height=len(rows) * _ROW,
        scales=rows,
        links=links,
        cost=_cost(result.cost, scales),
    )


def _particles(
    images: Iterable[Tensor], survivors: list[int], fates: list[str], scored: _Scores, winner: int | None, y: int
) -> list[_Particle]:
    """The row of one scale; `scored` holds reward and weight by column."""
    return [
        _Particle(
            uri=data_uri(image),
            x=column * _CELL,
            y=y + _TEXT,
            column=column,
            fate=f"{fates[column]} winner" if column == winner else fates[column],
            copies=survivors.count(column),
            reward=f"{scored[column][0]:.1f}" if column in scored else "",
            weight=_percent(scored.get(column, (0.0, None))[1]),
        )
        for column, image in enumerate(images)
    ]


def _links(parents: Sequence[int], y: int, winner: int | None, winning_parent: int | None) -> list[_Link]:
    """Lines from below a parent to the top of its child; the last entry is true on the path of the chosen image."""
    half = _IMAGE // 2
    return [
        (
            parent * _CELL + half,
            y - _ROW + _BELOW_NUMBERS,
            column * _CELL + half,
            y + _TEXT,
            column == winner and parent == winning_parent,
        )
        for column, parent in enumerate(parents)
    ]


def _grid(scales: ScaleTable, scale: int) -> str:
    height, width = scales.grids[scale]
    return f"{height} x {width} tokens"


def _notes(events: Sequence[EventRecord], count: int) -> list[str]:
    notes: list[str] = []
    for event in events:
        notes += _describe(event, count)
        count = len(event.kept)
    return notes


def _cost(cost: SearchCost, scales: ScaleTable) -> list[tuple[str, str]]:
    return [
        ("transformer", f"{cost.transformer_flops / 1e9:.2f} GFLOP"),
        ("decoder", f"{cost.decoder_flops / 1e9:.2f} GFLOP for {cost.num_decodes} images"),
        ("reward and features", f"{cost.scorer_flops / 1e9:.2f} GFLOP"),
        ("together", f"{cost.flops / 1e9:.2f} GFLOP, {cost.seconds:.2f} seconds"),
        ("tokens", f"{cost.num_tokens}, {cost.num_tokens / scales.num_tokens:.1f} times those of a single image"),
    ]


def _follow(count: int, events: Sequence[EventRecord]) -> tuple[list[int], list[str]]:
    """For each column after the events the column that it continues, and for each column before them its fate."""
    alive, fates = list(range(count)), ["kept"] * count
    for event in events:
        # `event.kept` indexes the batch at this event, `alive` maps it to the columns before all events.
        kept = [alive[column] for column in event.kept]
        for column in set(alive) - set(kept):
            fates[column] = f"ended-by-{event.kind}"
        alive = kept
    return alive, fates


def _scored(count: int, events: Sequence[EventRecord]) -> _Scores:
    """Reward and weight of each image at its first resampling, by its column before all events.

    Copies of an image share its reward; their weights add up.
    """
    alive = list(range(count))
    found: _Scores = {}
    for event in events:
        # Columns of this batch that continue the same image share its reward, and their weights are summed.
        current: dict[int, tuple[float, float]] = {}
        for column, reward, weight in zip(alive, event.rewards, event.weights, strict=False):
            current[column] = (reward, weight + current.get(column, (0.0, 0.0))[1])
        found = {**current, **found}  # earlier events take precedence
        alive = [alive[column] for column in event.kept]
    return found


def _percent(weight: float | None) -> str:
    return "" if weight is None else f"{100 * weight:.0f} %"


def _describe(event: EventRecord, alive: int) -> list[str]:
    if event.kind == "cluster":
        return [f"clustering keeps {len(event.kept)} of {alive}"]
    distinct = len(set(event.kept))
    return [
        f"resampling keeps {len(event.kept)} of {alive}",
        f"{distinct} distinct, effective size {event.effective_sample_size:.1f}",
    ]
