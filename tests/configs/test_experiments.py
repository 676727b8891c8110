"""Claims: every experiment config has a folder of results and vice versa, and tables agree with the recorded numbers."""

import json
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = sorted(path.parent.relative_to(ROOT / "experiments") for path in ROOT.glob("experiments/*/*/README.md"))


def test_claims_and_experiment_configs_correspond() -> None:
    configs = {Path(path.parents[1].name) / path.stem for path in ROOT.glob("configs/*/experiment/*.yaml")}
    small = {path for path in configs if not path.name.endswith("_full")}
    assert small == set(CLAIMS)
    assert {path.with_name(path.name.removesuffix("_full")) for path in configs - small} <= small


def test_result_folders_contain_no_config_and_no_script() -> None:
    suffixes = {path.suffix for path in (ROOT / "experiments").rglob("*") if path.is_file()}
    assert suffixes <= {".md", ".json", ".svg"}


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_every_recorded_number_has_its_provenance(claim: Path) -> None:
    for name, entry in json.loads((ROOT / "experiments" / claim / "results.json").read_text()).items():
        assert "seed" in entry["summary"], name
        assert entry["provenance"]["commit"], name
        assert entry["provenance"]["processor"], name


def test_the_table_of_the_ablation_agrees_with_the_recorded_numbers() -> None:
    folder = ROOT / "experiments/var/what_pays"
    strategies = json.loads((folder / "results.json").read_text())["what_pays"]["summary"]["strategies"]
    lines = [[cell.strip("` ") for cell in line.strip("|").split("|")] for line in (folder / "README.md").read_text().splitlines()]
    lines = [line[:1] + line[2:] for line in lines]  # the second column describes the change of each strategy
    for name, row in strategies.items():
        low, high = row["interval"]
        cells = [name, f"{100 * row['score']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", f"{1e3 * row['tflops']:.2f}"]
        gain = row.get("over_single")
        cells.append(f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]" if gain else "")
        assert cells in lines, name


def test_the_default_run_gains_a_quarter_in_accuracy() -> None:
    results = json.loads((ROOT / "experiments/gspo/clip_fraction/results.json").read_text())
    gains = [results[f"gspo-seed{seed}"]["summary"]["accuracy_gain"] for seed in (0, 1, 2)]
    assert fmean(gains) >= 0.25
