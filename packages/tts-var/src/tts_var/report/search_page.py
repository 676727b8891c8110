"""`search.html`: what a search did to each prompt, scale by scale; one page without a script or an outside resource."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from tts_var.images import data_uri
from tts_var.numerics.scales import ScaleTable
from tts_var.search import EventRecord, SearchResult

_LEFT, _CELL, _ROW = 200, 76, 116
_BELOW_TEXT = 82  # a link starts below the numbers of its picture


class _Particle(NamedTuple):
    """One thumbnail: where it stands, what became of it, and from where it came."""

    uri: str
    x: int
    y: int
    slot: int
    fate: str
    copies: int
    reward: str
    weight: str


class _Scale(NamedTuple):
    """One row of thumbnails."""

    number: int
    grid: str
    y: int
    particles: list[_Particle]
    notes: list[str]


class _Tree(NamedTuple):
    """The search of one prompt."""

    prompt: str
    verdict: list[tuple[str, bool]]
    reward: str
    final: str
    width: int
    height: int
    scales: list[_Scale]
    links: list[tuple[int, int, int, int, bool]]
    cost: list[tuple[str, str]]


def render_search_page(
    title: str, results: Sequence[SearchResult], scales: ScaleTable, *, verdicts: Sequence[Mapping[str, bool]], settings: dict[str, str]
) -> str:
    """The page as HTML; prompts and settings are escaped.

    Args:
        title: heading.
        results: searches that were run with `trace`.
        scales: the model's grids.
        verdicts: for each result the parts of its prompt and whether they hold; empty where nobody checked.
        settings: shown in a table.
    """
    environment = Environment(
        loader=PackageLoader("tts_var", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    trees = [_tree(result, scales, verdict) for result, verdict in zip(results, verdicts, strict=True)]
    return environment.get_template("search.html").render(title=title, trees=trees, settings=settings, cell=_CELL - 12)


def _tree(result: SearchResult, scales: ScaleTable, verdict: Mapping[str, bool]) -> _Tree:
    rows: list[_Scale] = []
    links: list[tuple[int, int, int, int, bool]] = []
    winning = result.lineage
    origin: list[int] | None = None  # for each slot of this scale, the slot of the scale before it continues
    for scale, pictures in enumerate(result.thumbnails):
        events = [event for event in result.events if event.scale == scale]
        survivors, fates = _follow(len(pictures), events)
        judged = _judged(len(pictures), events)
        if scale == len(result.thumbnails) - 1:
            for slot, reward in zip(survivors, result.rewards, strict=False):
                judged.setdefault(slot, (reward, None))
                if slot != winning[scale]:
                    fates[slot] = "not-chosen"
        y = scale * _ROW + 8
        particles = []
        for slot, picture in enumerate(pictures):
            on_path = scale < len(winning) and winning[scale] == slot
            particles.append(
                _Particle(
                    uri=data_uri(picture),
                    x=_LEFT + slot * _CELL,
                    y=y,
                    slot=slot,
                    fate=f"{fates[slot]} winner" if on_path else fates[slot],
                    copies=survivors.count(slot),
                    reward=f"{judged[slot][0]:.1f}" if slot in judged else "",
                    weight=_percent(judged.get(slot, (0.0, None))[1]),
                )
            )
            if origin is not None:
                parent = origin[slot]
                on_link = on_path and winning[scale - 1] == parent
                half = (_CELL - 12) // 2
                links.append((_LEFT + parent * _CELL + half, y - _ROW + _BELOW_TEXT, _LEFT + slot * _CELL + half, y, on_link))
        height, width = scales.grids[scale]
        alive, notes = len(pictures), []
        for event in events:
            notes += _describe(event, alive)
            alive = len(event.kept)
        rows.append(_Scale(scale, f"{height} x {width} tokens", y, particles, notes))
        origin = survivors
    widest = max((len(pictures) for pictures in result.thumbnails), default=1)
    cost = result.cost
    return _Tree(
        prompt=str(result.prompt),
        verdict=list(verdict.items()),
        reward="" if result.reward is None else f"{result.reward:.2f}",
        final=data_uri(result.image),
        width=_LEFT + widest * _CELL,
        height=len(rows) * _ROW,
        scales=rows,
        links=links,
        cost=[
            ("transformer", f"{cost.transformer_flops / 1e9:.2f} GFLOP"),
            ("decoder", f"{cost.decoder_flops / 1e9:.2f} GFLOP for {cost.num_decodes} pictures"),
            ("reward and features", f"{cost.scorer_flops / 1e9:.2f} GFLOP"),
            ("together", f"{cost.flops / 1e9:.2f} GFLOP, {cost.seconds:.2f} seconds"),
            ("tokens", f"{cost.num_tokens}, {cost.num_tokens / scales.num_tokens:.1f} times those of a single picture"),
        ],
    )


def _follow(count: int, events: Sequence[EventRecord]) -> tuple[list[int], list[str]]:
    """For each slot after the events the slot it continues, and for each slot before them what became of it."""
    alive, fates = list(range(count)), ["kept"] * count
    for event in events:
        living = [alive[slot] for slot in event.kept]
        for slot in set(alive) - set(living):
            fates[slot] = f"ended-by-{event.kind}"
        alive = living
    return alive, fates


def _judged(count: int, events: Sequence[EventRecord]) -> dict[int, tuple[float, float | None]]:
    """Reward and weight of each picture at the first resampling that still saw it, by its slot before all events.

    Copies of a picture share its reward; their weights add up.
    """
    alive = list(range(count))
    found: dict[int, tuple[float, float | None]] = {}
    for event in events:
        seen: dict[int, tuple[float, float]] = {}
        for slot, reward, weight in zip(alive, event.rewards, event.weights, strict=False):
            seen[slot] = (reward, weight + seen.get(slot, (0.0, 0.0))[1])
        found = {**seen, **found}
        alive = [alive[slot] for slot in event.kept]
    return found


def _percent(weight: float | None) -> str:
    return "" if weight is None else f"{100 * weight:.0f} %"


def _describe(event: EventRecord, alive: int) -> list[str]:
    if event.kind == "cluster":
        return [f"clustering keeps {len(event.kept)} of {alive}"]
    distinct = len(set(event.kept))
    return [
        f"resampling draws {len(event.kept)} of {alive}",
        f"{distinct} distinct, effective size {event.effective_sample_size:.1f}",
    ]
