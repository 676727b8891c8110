"""SVG charts by matplotlib: light and dark style, values as tooltips, deterministic bytes."""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from triptych.report import Figure
from triptych.report.page import COLOURS

_SIZE_INCHES = (5.0, 2.7)
# Colours that matplotlib writes -> the variable of the style sheet that replaces them.
_INK, _LINE, _CARD = "#1c1f23", "#d9dce1", "#f7f8fa"
_SERIES = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#b8860b", "#0b7285", "#c2255c", "#5c677d")
_VARIABLES = {_INK: "--ink", _LINE: "--line", _CARD: "--card"} | {colour: f"--c{index}" for index, colour in enumerate(_SERIES)}


HOVER = '[id$="-hover"] use { opacity: 0; } [id$="-hover"] use:hover { opacity: 1; }'
"""Style of the markers of long curves."""


def render_chart(figure: Figure, *, standalone: bool = False) -> str | None:
    """A figure as SVG with its values as tooltips; None if no series has a point.

    Args:
        figure: curves and axes.
        standalone: include the style sheet, for an SVG file of its own; inside a page the page's style sheet is used.
    """
    data = {label: points for label, points in figure.series.items() if points}
    if not data:
        return None
    # Text is not converted to paths; ids are hashed with the title, so that several charts can share a page.
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": figure.title,
        "font.size": 8.5,
        "path.simplify": False,
        "text.parse_math": False,
    }
    with rc_context(settings):
        canvas = Canvas(figsize=_SIZE_INCHES, layout="constrained")
        axes = canvas.add_subplot()
        for index, (label, points) in enumerate(data.items()):
            _plot(axes, index, label, points)
        _style(axes, figure, [point for points in data.values() for point in points])
        text = io.StringIO()
        canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    # Without the XML header and a fixed size: the page scales the drawing, and the style sheet sets the colours.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1), count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.title)} over {escape(figure.over)}"', 1)
    for colour, variable in _VARIABLES.items():
        svg = re.sub(rf"{colour}\b", f"var({variable})", svg)
    for index, (label, points) in enumerate(data.items()):
        svg = _with_tooltips(svg, f"series-{index}", [f"{label}, {figure.over} {x:.6g}: {y:.4g}" for x, y, *_ in points])
    if standalone:
        svg = svg.replace("<defs>", f"<style>{COLOURS}\nsvg {{ background: var(--card); }}\n{HOVER}</style>\n<defs>", 1)
    return svg


def _plot(axes: Axes, index: int, label: str, points: Sequence[tuple[float, ...]]) -> None:
    colour = _SERIES[index % len(_SERIES)]
    style = "-" if index < len(_SERIES) else "--"
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    axes.plot(xs, ys, style, color=colour, linewidth=1.4, label=label)
    bars = [point for point in points if len(point) == 4]
    if bars:
        axes.vlines([x for x, *_ in bars], [low for _, _, low, _ in bars], [high for *_, high in bars], colors=colour, linewidth=1.0)
    # Markers carry the tooltips; of a long curve they are visible on hover only.
    marker = 4.0 if len(points) <= 12 else 5.0
    (dots,) = axes.plot(xs, ys, "o", color=colour, markersize=marker, markeredgewidth=0, clip_on=False)
    dots.set_gid(f"series-{index}{'' if len(points) <= 12 else '-hover'}")


def _style(axes: Axes, figure: Figure, points: Sequence[tuple[float, ...]]) -> None:
    left, right = min(point[0] for point in points), max(point[0] for point in points)
    margin = 0.02 * (right - left) or 0.5
    axes.set_xlim(left - margin, right + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=all(float(point[0]).is_integer() for point in points)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
    low, high = figure.bounds or (0.0, 0.0)
    if low < high:
        axes.set_ylim(low, high)
        if high == 1.0:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(figure.over, color=_INK)
    axes.set_ylabel(figure.unit, color=_INK)
    # The common exponent of the ticks is placed left of the axis, beside the legend.
    axes.yaxis.get_offset_text().set(color=_INK, horizontalalignment="right")
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.tick_params(colors=_INK, length=0)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, labelcolor=_INK, borderaxespad=0)


def _with_tooltips(svg: str, group: str, texts: Sequence[str]) -> str:
    """The SVG with a <title> in each marker of a group, in order; matplotlib writes one <use> per point."""
    start = svg.find(f'<g id="{group}')
    end = svg.find("\n   </g>", start)
    assert 0 <= start < end
    remaining = iter(texts)
    marked = re.sub(r"(<use [^>]*?)/>", lambda found: f"{found[1]}><title>{escape(next(remaining))}</title></use>", svg[start:end])
    return svg[:start] + marked + svg[end:]
