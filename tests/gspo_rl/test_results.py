"""The panel's part of docs/results.md: runs by objective, and their means."""

import json
from statistics import fmean

from gspo_rl.results import Results
from projects import ROOT


def test_the_mean_of_an_objective_is_that_of_its_recorded_runs() -> None:
    record = json.loads((ROOT / "experiments/gspo/clip_fraction/results.json").read_text())
    runs = [run["summary"] for run in record.values() if run["summary"]["objective"] == "gspo"]
    before, after, gain = (100 * fmean(run[f"accuracy_{key}"] for run in runs) for key in ("before", "after", "gain"))
    text = Results().text(ROOT / "experiments")
    assert f"| **gspo** | **mean** | {before:.1f} | {after:.1f} | {gain:+.1f} |" in text
    assert text.index("| gspo | 0 |") < text.index("| gspo | 2 |") < text.index("**gspo**") < text.index("| grpo | 0 |")
