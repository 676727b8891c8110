"""The results page: built from the records only, and equal to the committed files."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas

from projects import ROOT
from triptych.commands.results import find_sections
from triptych.report import Figure
from triptych.report.results import results_page, write_results, write_strip


class One:
    """A section with a table and a chart."""

    title = "One: a panel"

    def text(self, experiments: Path) -> str:
        return (experiments / "record.txt").read_text()

    def figures(self, experiments: Path) -> dict[str, Figure]:
        return {"one": Figure("Score", "N", {"a": [(1, 0.5)]}, bounds=(0, 1))}

    def strip(self, panel: Canvas, outputs: Path) -> None:
        panel.subplots().plot([0, 1], [1, 0])


def test_a_section_gives_its_text_and_its_charts(tmp_path: Path) -> None:
    (tmp_path / "record.txt").write_text("| a | 1 |\n")
    written = write_results([One()], tmp_path, tmp_path / "docs")
    assert [path.relative_to(tmp_path / "docs").as_posix() for path in written] == ["results.md", "images/one.svg"]
    page = written[0].read_text()
    assert page.index("## One: a panel") < page.index("| a | 1 |") < page.index("![Score over N](images/one.svg)")
    assert "prefers-color-scheme: dark" in written[1].read_text(), "a separate file contains its style sheet"


def test_the_strip_is_a_png_with_a_panel_per_section(tmp_path: Path) -> None:
    write_strip([One(), One()], tmp_path, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["results.md", "images"])
def test_the_committed_results_are_those_of_the_records(name: str) -> None:
    for path, text in results_page(find_sections(), ROOT / "experiments").items():
        if path.startswith(name):
            assert (ROOT / "docs" / path).read_text() == text, f"docs/{path} is out of date: run make results"


def test_tables_state_the_limits_of_their_numbers() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    assert "The verifier under-counts right images" in page
    assert "Moving clips lose identity" in page


def test_charts_of_all_panels_are_fractions_within_their_intervals() -> None:
    for section in find_sections():
        for figure in section.figures(ROOT / "experiments").values():
            assert figure.bounds == (0, 1)
            for _, y, *interval in (point for points in figure.series.values() for point in points):
                low, high = interval or (0.0, 1.0)  # curves have none
                assert low <= y <= high
