"""The panel's part of docs/results.md: a row per memory policy beside its upper bound, and a storyboard for the strip."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from captain_cinema.toy.results import Results
from projects import ROOT


def test_every_policy_stands_beside_its_upper_bound() -> None:
    record = json.loads((ROOT / "experiments/cinema/memories/results.json").read_text())
    text = Results().text(ROOT / "experiments")
    for name, row in record["memories"]["summary"]["memories"].items():
        assert f"| `{name}` | {row['tokens_per_shot']:.0f} |" in text
        assert f"{row['identity']:.2f} of {row['identity_upper_bound']:.2f}" in text


def test_the_strip_shows_keyframes_and_below_them_what_they_remember() -> None:
    figure = Figure()
    Results().strip(figure.subfigures(), Path("unused"))
    (panel,) = figure.subfigs
    keyframes, memories = panel.axes[:6], panel.axes[6:]
    assert [len(axes.images) for axes in keyframes] == [1] * 6
    assert len(memories[0].images) == 0, "the first shot has no past"
    assert all(axes.images for axes in memories[1:])
    widths = [image.get_extent()[1] for image in memories[3].images]
    assert widths == sorted(widths, reverse=True), "sizes shrink with the rank"
