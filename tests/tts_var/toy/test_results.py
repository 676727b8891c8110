"""The panel's part of docs/results.md: strategies with their intervals, and the tree of a search for the strip."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from projects import ROOT
from tts_var.toy.results import Results


def test_every_strategy_has_its_score_and_interval() -> None:
    text = Results().text(ROOT / "experiments")
    record = json.loads((ROOT / "experiments/var/search_strategies/results.json").read_text())["search_strategies"]
    for name, row in record["summary"]["strategies"].items():
        low, high = (100 * bound for bound in row["interval"])
        assert f"| `{name}` | {row['num_samples']} | {100 * row['score']:.1f} | {low:.1f} to {high:.1f} |" in text


def test_best_of_n_is_one_curve() -> None:
    over_images = Results().figures(ROOT / "experiments")["var_score_over_images"]
    assert [point[0] for point in over_images.series["Best-of-N"]] == [1, 2, 4, 8]
    assert [point[0] for point in over_images.series["late_top"]] == [2, 4]


def test_the_strip_frames_one_particle_per_scale() -> None:
    figure = Figure()
    Results().strip(figure.subfigures(), Path("unused"))
    (axes,) = figure.subfigs[0].axes
    assert len(axes.images) == 6 + 6 + 4 + 4 + 2 + 1, "particles of scales 3 to 7, and the chosen image"
    assert len(axes.lines) == 5, "scales 3 to 7 are shown"
