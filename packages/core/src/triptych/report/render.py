"""`report.html`: one page without a script or an outside resource, made from the files of a run."""

from pathlib import Path
from typing import Any, NamedTuple

from triptych.files import read_json
from triptych.report import Chart, Figure, ReportConfig
from triptych.report.charts import HOVER, render_chart
from triptych.report.page import environment
from triptych.telemetry.tracking.jsonl import read_rows


class _Panel(NamedTuple):
    title: str
    svg: str


def render_report(directory: Path, config: ReportConfig) -> str:
    """The page of the run in `directory` as HTML; all inserted text is escaped.

    Reads `metrics.jsonl`, `timings.jsonl`, `summary.json`, `provenance.json` and `config.yaml` where they exist.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for name in ("metrics", "timings"):
        for row in read_rows(directory / f"{name}.jsonl"):
            by_step.setdefault(row["step"], {}).update(row)
    rows = [by_step[step] for step in sorted(by_step)]
    figures = [*(_over_steps(chart, rows) for chart in config.charts), *config.figures]
    charts = [(figure.title, render_chart(figure)) for figure in figures]
    # Groups of all charts are numbered from 1 by matplotlib; ids must be unique on a page.
    panels = [
        _Panel(title, svg.replace('<g id="', f'<g id="chart{index}-')) for index, (title, svg) in enumerate(charts) if svg is not None
    ]
    return (
        environment("triptych")
        .get_template("template.html")
        .render(
            config=config,
            panels=panels,
            hover=HOVER,
            summary=_flatten(_read_json(directory / "summary.json")),
            provenance=_flatten(_read_json(directory / "provenance.json")),
            resolved=(directory / "config.yaml").read_text(encoding="utf-8") if (directory / "config.yaml").exists() else "",
        )
    )


def _over_steps(chart: Chart, rows: list[dict[str, Any]]) -> Figure:
    transform = chart.transform or (lambda value: value)
    series = {
        label: [(row["step"], transform(row[key])) for row in rows if isinstance(row.get(key), int | float)]
        for key, label in chart.series.items()
    }
    return Figure(chart.title, "step", series, chart.unit, chart.bounds)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    tree: dict[str, Any] = read_json(path, "run the command again")
    assert isinstance(tree, dict)
    return tree


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict):
        return {key: value for name, branch in tree.items() for key, value in _flatten(branch, f"{prefix}{name}.").items()}
    text = f"{tree:.6g}" if isinstance(tree, float) else str(tree)
    return {prefix.removesuffix("."): text}
