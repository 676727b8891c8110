"""Charts: points, error bars, axes, tooltips and colours of the SVG."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triptych.report import Figure
from triptych.report.charts import render_chart

SVG = "{http://www.w3.org/2000/svg}"


def chart(figure: Figure, **options: bool) -> str:
    svg = render_chart(figure, **options)
    assert svg is not None
    return svg


def markers(svg: str, series: int) -> list[tuple[float, float]]:
    (group,) = [item for item in ET.fromstring(svg).iter(f"{SVG}g") if (item.get("id") or "").startswith(f"series-{series}")]
    return [(float(use.get("x", "nan")), float(use.get("y", "nan"))) for use in group.iter(f"{SVG}use")]


def ticks(svg: str, axis: str) -> list[str]:
    root = ET.fromstring(svg)
    groups = [item for item in root.iter(f"{SVG}g") if re.fullmatch(rf"{axis}tick_\d+", item.get("id") or "")]
    return ["".join(text.itertext()) for group in groups for text in group.iter(f"{SVG}text")]


@pytest.mark.parametrize("count", [2, 5, 40])
def test_a_pixel_is_an_affine_map_of_its_point(count: int) -> None:
    points = [(float(index), (index * 7 % 11) / 10) for index in range(count)]
    placed = markers(chart(Figure("t", "step", {"a": points})), 0)
    assert len(placed) == count
    (x0, y0), (x1, y1) = placed[0], placed[-1]
    low, high = points[0][1], points[-1][1]
    if low == high:
        pytest.skip("the two ends have one height")
    for (x, y), (across, down) in zip(points, placed, strict=True):
        # The SVG has six decimals.
        assert across == pytest.approx(x0 + (x - points[0][0]) / (points[-1][0] - points[0][0]) * (x1 - x0), abs=1e-4)
        assert down == pytest.approx(y0 + (y - low) / (high - low) * (y1 - y0), abs=1e-4)
    assert x1 > x0, "larger steps lie further right"


def test_an_error_bar_spans_its_interval() -> None:
    svg = chart(Figure("t", "N", {"a": [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.9)]}))
    points = markers(svg, 0)
    pixels = (points[1][1] - points[0][1]) / 0.1  # per unit of the vertical axis, negative: y runs downwards
    bars = re.findall(r"M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n\"[^>]*style=\"fill: none; stroke: var\(--c0\)", svg)
    spans = sorted((float(x), float(top) - float(bottom)) for x, bottom, other, top in bars if x == other)
    assert [span for _, span in spans] == pytest.approx([0.2 * pixels, 0.4 * pixels], abs=1e-3)


def test_fractions_run_from_0_to_100_per_cent() -> None:
    labels = ticks(chart(Figure("t", "step", {"a": [(0, 0.42), (1, 0.43)]}, bounds=(0, 1))), "y")
    assert labels[0] == "0%"
    assert labels[-1] == "100%"


def test_the_horizontal_axis_ends_with_the_data() -> None:
    steps = [int(label) for label in ticks(chart(Figure("t", "step", {"a": [(step, step**2) for step in range(1, 23)]})), "x")]
    assert max(steps) <= 22
    assert min(steps) >= 0


@settings(max_examples=15, deadline=None)
@example(1.0, 0.0)
@example(6.702e-05, 1e-9)
@example(1.0, 1e-4)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e3))
def test_ticks_have_different_labels(start: float, spread: float) -> None:
    svg = chart(Figure("t", "step", {"a": [(0, start), (1, start + spread)]}))
    for axis in "xy":
        labels = ticks(svg, axis)
        assert len(labels) == len(set(labels)) >= 2


def test_markers_show_their_values_on_hover_and_labels_are_escaped() -> None:
    svg = chart(Figure("<b>", "GFLOP", {"<i> & $x$": [(1.5, 0.25)], "none": []}))
    assert "<title>&lt;i&gt; &amp; $x$, GFLOP 1.5: 0.25</title>" in svg
    assert "<b>" not in svg
    ET.fromstring(svg)


def test_dollar_signs_in_a_label_are_text_and_not_mathematics() -> None:
    root = ET.fromstring(chart(Figure("t", "step", {"costs $1 and $2": [(0, 1.0)]})))
    assert "costs $1 and $2" in ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_colours_come_from_the_style_sheet() -> None:
    figure = Figure("t", "step", {str(index): [(0, index)] for index in range(9)})
    svg = chart(figure)
    assert not re.search("#[0-9a-f]{6}", svg), "a fixed colour would not follow light and dark"
    assert "prefers-color-scheme: dark" in chart(figure, standalone=True)


def test_the_same_numbers_give_the_same_bytes() -> None:
    figure = Figure("t", "step", {"a": [(0, 1.0), (1, 2.0)]})
    assert chart(figure) == chart(figure)


def test_a_figure_without_points_has_no_chart() -> None:
    assert render_chart(Figure("t", "step", {"a": []})) is None
