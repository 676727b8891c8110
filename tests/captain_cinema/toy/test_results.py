"""The panel's part of docs/results.md: a row per recorded run, and charts of the recorded numbers."""

from captain_cinema.toy.results import Results
from projects import ROOT
from triptych.report.charts import render_chart

EXPERIMENTS = ROOT / "experiments"


def test_every_recorded_run_has_a_row() -> None:
    text = Results().text(EXPERIMENTS)
    assert "| `golden` |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows if row.count("|") == rows[0].count("|")}) == 1


def test_charts_show_fractions_with_their_intervals() -> None:
    for figure in Results().figures(EXPERIMENTS).values():
        assert figure.bounds == (0, 1)
        points = [point for series in figure.series.values() for point in series]
        assert all(low <= y <= high for _, y, low, high in points)
        assert render_chart(figure) is not None
