"""The report: self-contained, escaped, and true to the numbers."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triptych.report.render import Chart, Figure, ReportConfig, Samples, nice_ticks, render_report
from triptych.telemetry.tracking.jsonl import JsonlTracker

ATTACK = "<script>alert('x')</script>\"&<img src=http://evil onerror=alert(1)>"


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path, config: ReportConfig) -> Reader:
    reader = Reader()
    reader.feed(render_report(folder, config))
    return reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tracker = JsonlTracker(tmp_path)
    for step in range(5):
        tracker.log({"reward/mean": 0.2 * step, "timing/seconds": 1.0 + step}, step=step)
    tracker.close()
    (tmp_path / "summary.json").write_text(json.dumps({"accuracy_after": 0.75, "name": ATTACK}))
    (tmp_path / "config.yaml").write_text(f"name: {ATTACK}\n")
    return tmp_path


def test_whatever_comes_from_outside_is_escaped(folder: Path) -> None:
    config = ReportConfig(
        title=ATTACK, headline={ATTACK: ATTACK}, notes=[ATTACK], charts=[Chart(ATTACK, {"reward/mean": ATTACK}, ATTACK)],
        samples=[Samples(ATTACK, (ATTACK,), [(ATTACK,)])],
    )  # fmt: skip
    reader = page(folder, config)
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.text.count(ATTACK) >= 9


def test_the_page_needs_nothing_from_outside(folder: Path) -> None:
    reader = page(folder, ReportConfig(title="t", charts=[Chart("Reward", {"reward/mean": "mean"})]))
    assert not [value for name, value in reader.attributes if name in {"src", "href", "action"}]
    assert not set(reader.tags) & {"script", "link", "iframe", "img", "object"}


def test_curves_show_every_logged_point_in_order(folder: Path) -> None:
    html = render_report(folder, ReportConfig(title="t", charts=[Chart("Both", {"reward/mean": "mean", "timing/seconds": "seconds"})]))
    paths = re.findall(r'<path class="curve s(\d)" d="M([^"]+)"', html)
    assert [colour for colour, _ in paths] == ["0", "1"]
    for _, path in paths:
        points = [tuple(map(float, point.split(","))) for point in path.split(" L")]
        assert len(points) == 5
        assert points == sorted(points), "steps run to the right"
        assert [y for _, y in points] == sorted((y for _, y in points), reverse=True), "growing values run upwards"
    assert "mean, step 3: 0.6" in html


def test_a_chart_without_data_is_left_out(folder: Path) -> None:
    assert "Nothing here" not in render_report(folder, ReportConfig(title="t", charts=[Chart("Nothing here", {"no/such": "x"})]))


@example(0.0, 5e-324)
@example(5e-324, 5e-324)
@example(0.0, 9e-13)
@example(1e6, 1e6 + 1e-9)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_enclose_the_range_at_even_distances(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    gaps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert max(gaps) - min(gaps) <= 1e-6 * max(gaps)


def test_a_figure_tells_its_points_and_bars_in_their_order(tmp_path: Path) -> None:
    """The pixel of a point is an affine map of it, a bar spans its interval, and tooltips name axis and label."""
    figure = Figure("Score", "GFLOP", {ATTACK: [(1.0, 0.5, 0.4, 0.6), (2.0, 0.6, 0.5, 0.9)], "none": []}, "share")
    text = render_report(tmp_path, ReportConfig(title="t", figures=[figure]))
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert "GFLOP 2: 0.6" in reader.text
    lines = [(float(y1), float(y2)) for y1, y2 in re.findall(r'<line class="s0"[^>]*y1="([\d.]+)" y2="([\d.]+)"', text)]
    centres = [float(y) for y in re.findall(r'<circle[^>]*cy="([\d.]+)"', text)]
    assert len(lines) == len(centres) == 2
    scale = (centres[0] - centres[1]) / 0.1  # pixels per unit; the vertical axis points down
    for (low, high), centre, (_, y, below, above) in zip(lines, centres, figure.series[ATTACK], strict=True):
        assert low - centre == pytest.approx(scale * (y - below), abs=0.2)
        assert centre - high == pytest.approx(scale * (above - y), abs=0.2)
