"""`report.html`: one page without a script or an outside resource, made from what the run wrote."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from triptych.telemetry.tracking.jsonl import read_rows

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 460, 220, 52, 26, 12, 10


@dataclass(frozen=True)
class Chart:
    """One panel of curves.

    Attributes:
        title: heading of the panel.
        series: metric name -> label; each is one curve over the step.
        unit: shown beside the vertical axis.
    """

    title: str
    series: dict[str, str]
    unit: str = ""


@dataclass(frozen=True)
class Figure:
    """One panel of curves over something else than the step.

    Attributes:
        title: heading of the panel.
        over: what the horizontal axis shows, with its unit.
        series: label -> points (x, y), in order of x; an error bar where a point has four numbers (x, y, low, high).
        unit: of the vertical axis.
    """

    title: str
    over: str
    series: Mapping[str, Sequence[tuple[float, ...]]]
    unit: str = ""


@dataclass(frozen=True)
class Samples:
    """Examples shown side by side.

    Attributes:
        title: heading of the table.
        columns: column headings.
        rows: one tuple of texts per example, as long as `columns`; escaped on the page.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class ReportConfig:
    """What a page shows.

    Attributes:
        title: heading of the page.
        headline: label -> value, the few numbers that matter, already formatted.
        charts: panels of curves over the step; one without data is left out.
        figures: panels of curves over anything.
        samples: tables of examples.
        notes: sentences below the headline.
    """

    title: str
    headline: dict[str, str] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    figures: Sequence[Figure] = ()
    samples: Sequence[Samples] = ()
    notes: Sequence[str] = ()


class _Curve(NamedTuple):
    label: str
    colour: int
    path: str
    points: list[tuple[float, float, str]]
    bars: list[tuple[float, float, float]]
    last: str


class _Panel(NamedTuple):
    title: str
    over: str
    unit: str
    curves: list[_Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def render_report(directory: Path, config: ReportConfig) -> str:
    """The page of the run in `directory` as HTML; every text that comes from outside is escaped.

    Reads `metrics.jsonl`, `timings.jsonl`, `summary.json`, `provenance.json` and `config.yaml` where they exist.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for name in ("metrics", "timings"):
        for row in read_rows(directory / f"{name}.jsonl"):
            by_step.setdefault(row["step"], {}).update(row)
    rows = [by_step[step] for step in sorted(by_step)]
    figures = [*(_over_steps(chart, rows) for chart in config.charts), *config.figures]
    panels = [panel for figure in figures if (panel := _panel(figure)) is not None]
    environment = Environment(
        loader=PackageLoader("triptych", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html").render(
        config=config,
        panels=panels,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
        summary=_flatten(_read_json(directory / "summary.json")),
        provenance=_flatten(_read_json(directory / "provenance.json")),
        resolved=(directory / "config.yaml").read_text(encoding="utf-8") if (directory / "config.yaml").exists() else "",
    )


def _over_steps(chart: Chart, rows: list[dict[str, Any]]) -> Figure:
    series = {
        label: [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)] for key, label in chart.series.items()
    }
    return Figure(chart.title, "step", series, chart.unit)


def _panel(figure: Figure) -> _Panel | None:
    data = {label: points for label, points in figure.series.items() if points}
    if not data:
        return None
    steps = [point[0] for points in data.values() for point in points]
    values = [value for points in data.values() for point in points for value in point[1:]]
    x_ticks, y_ticks = nice_ticks(min(steps), max(steps)), nice_ticks(min(values), max(values))
    x_low, x_high = min(*steps, x_ticks[0]), max(*steps, x_ticks[-1])
    y_low, y_high = min(*values, y_ticks[0]), max(*values, y_ticks[-1])

    def place_x(step: float) -> float:
        return _LEFT + (step - x_low) / (x_high - x_low or 1) * (_WIDTH - _LEFT - _RIGHT)

    def place_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low or 1) * (_HEIGHT - _TOP - _BOTTOM)

    curves = []
    for index, (label, points) in enumerate(data.items()):
        placed = [(place_x(x), place_y(y), f"{label}, {figure.over} {x:.4g}: {y:.4g}") for x, y, *_ in points]
        bars = [(place_x(x), place_y(bar[0]), place_y(bar[1])) for x, _, *bar in points if bar]
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
        curves.append(_Curve(label=label, colour=index, path=path, points=placed, bars=bars, last=f"{points[-1][1]:.4g}"))
    return _Panel(
        title=figure.title,
        over=figure.over,
        unit=figure.unit,
        curves=curves,
        x_ticks=[(place_x(tick), f"{tick:g}") for tick in x_ticks],
        y_ticks=[(place_y(tick), f"{tick:.4g}") for tick in y_ticks],
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose the range from `low` to `high`.

    Example:
        >>> nice_ticks(0, 97)
        [0.0, 50.0, 100.0]
    """
    if high - low < max(1e-300, 1e-8 * max(abs(low), abs(high))):  # equal, or so near that even distances would be rounded away
        margin = 0.5 * abs(low) if abs(low) > 1e-300 else 0.5
        low, high = low - margin, high + margin
    raw = (high - low) / count
    exponent = math.floor(math.log10(raw))
    magnitude = 10.0**exponent
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12 - exponent) for index in range(first, last + 1)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(tree, dict)
    return tree


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict):
        return {key: value for name, branch in tree.items() for key, value in _flatten(branch, f"{prefix}{name}.").items()}
    text = f"{tree:.6g}" if isinstance(tree, float) else str(tree)
    return {prefix.removesuffix("."): text}
