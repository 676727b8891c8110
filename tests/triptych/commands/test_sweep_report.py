"""Sweep report: table, means over seeds, and page."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.commands.sweep_report import read_sweep, write_sweep
from triptych.errors import UserError


def test_a_sweep_becomes_one_table_and_one_page(run: Callable[..., None], tmp_path: Path) -> None:
    for objective, base in (("gspo", 0.5), ("grpo", 0.25)):
        for seed in range(3):
            summary = {"accuracy": base + 0.1 * seed, "seed": seed, "name": "<b>x</b>", "interval": [0, 1]}
            run(tmp_path, f"sweep/objective={objective},seed={seed}", summary=summary, steps=2)
    run(tmp_path, "sweep/objective=<i>,seed=0", steps=1)
    sweep = read_sweep(tmp_path / "sweep")
    assert sweep.columns == ["objective", "seed", "state", "step", "accuracy"]
    assert sweep.rows[0] == ["<i>", "0", "dead at step 1", "1", ""]
    assert ["gspo", "2", "finished", "2", "0.7"] in sweep.rows
    # Three values a tenth apart: standard deviation .1, standard error .1 / sqrt(3).
    assert sweep.means == [["grpo", "3", "0.35 ± 0.058"], ["gspo", "3", "0.6 ± 0.058"]]
    page = write_sweep(tmp_path / "sweep", sweep).read_text()
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        assert list(csv.reader(file)) == [sweep.columns, *sweep.rows]
    with pytest.raises(UserError, match="no member of .* has the metric 'speed': choose among accuracy"):
        read_sweep(tmp_path / "sweep", ["speed"])
