"""The report: self-contained, escaped, and true to the numbers."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from triptych.own_files import OwnFiles
from triptych.report import Chart, ReportConfig, Samples, Section
from triptych.report.render import render_report
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
    tracker = JsonlTracker(OwnFiles(tmp_path))
    for step in range(5):
        tracker.log({"reward/mean": 0.2 * step, "timing/seconds": 1.0 + step}, step=step)
    tracker.close()
    (tmp_path / "summary.json").write_text(json.dumps({"accuracy_after": 0.75, "name": ATTACK}))
    (tmp_path / "config.yaml").write_text(f"name: {ATTACK}\n")
    return tmp_path


def test_inserted_text_is_escaped(folder: Path) -> None:
    config = ReportConfig(
        title=ATTACK, headline={ATTACK: ATTACK}, notes=[ATTACK], charts=[Chart(ATTACK, {"reward/mean": ATTACK}, ATTACK)],
        samples=[Samples(ATTACK, (ATTACK,), [(ATTACK,)])],
    )  # fmt: skip
    reader = page(folder, config)
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.text.count(ATTACK) >= 9


def test_the_page_has_no_external_resources(folder: Path) -> None:
    reader = page(folder, ReportConfig(title="t", charts=[Chart("Reward", {"reward/mean": "mean"})]))
    assert not [value for name, value in reader.attributes if name in {"src", "href", "action"}]
    links = [value for name, value in reader.attributes if name == "xlink:href"]
    assert all(value is not None and value.startswith("#") for value in links), "only markers of the same page"
    assert not set(reader.tags) & {"script", "link", "iframe", "img", "object"}


def test_curves_show_every_logged_point_in_order(folder: Path) -> None:
    html = render_report(folder, ReportConfig(title="t", charts=[Chart("Both", {"reward/mean": "mean", "timing/seconds": "seconds"})]))
    titles = re.findall(r"<title>(\w+), step (\d): ([\d.]+)</title>", html)
    assert titles == [("mean", str(step), f"{0.2 * step:.4g}") for step in range(5)] + [
        ("seconds", str(step), str(1 + step)) for step in range(5)
    ]


def test_a_transform_changes_the_values_that_are_shown(folder: Path) -> None:
    chart = Chart("Deviation", {"reward/mean": "mean"}, transform=lambda value: (value - 0.2) / 0.1)
    assert "<title>mean, step 2: 2</title>" in render_report(folder, ReportConfig(title="t", charts=[chart]))


def test_a_chart_without_data_is_left_out(folder: Path) -> None:
    html = render_report(folder, ReportConfig(title="t", charts=[Chart("Nothing here", {"no/such": "x"})]))
    assert "Nothing here" not in html
    assert "<h2>Curves</h2>" not in html
    assert "<h2>Curves</h2>" in render_report(folder, ReportConfig(title="t", charts=[Chart("Both", {"reward/mean": "mean"})]))


def test_a_section_has_its_markup_and_its_style(folder: Path) -> None:
    html = render_report(folder, ReportConfig(title="t", sections=[Section("<p id='own'>text</p>", "#own { color: red; }")]))
    assert "<p id='own'>text</p>" in html.partition("</style>")[2]
    assert "#own { color: red; }" in html.partition("</style>")[0]


def test_ids_are_unique_on_a_page(folder: Path) -> None:
    charts = [Chart("One", {"reward/mean": "mean"}), Chart("Two", {"reward/mean": "mean"}), Chart("Three", {"timing/seconds": "seconds"})]
    ids = [value for name, value in page(folder, ReportConfig(title="t", charts=charts)).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 3
