"""`triptych record`: summaries and provenance of runs in the results of a claim."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.commands.record import record
from triptych.errors import UserError


def test_runs_are_added_replaced_and_sorted(run: Callable[..., None], tmp_path: Path) -> None:
    run(tmp_path, "b", summary={"accuracy": 0.5})
    run(tmp_path, "a", summary={"accuracy": 0.25})
    claim = tmp_path / "experiments" / "claim"
    assert record([tmp_path / "b"], claim) == claim / "results.json"
    first = json.loads((claim / "results.json").read_text())
    assert list(first) == ["b"]
    assert first["b"]["summary"]["accuracy"] == 0.5
    assert first["b"]["provenance"] == json.loads((tmp_path / "b" / "provenance.json").read_text())
    run(tmp_path / "later", "b", summary={"accuracy": 0.75})
    record([tmp_path / "later" / "b", tmp_path / "a"], claim)
    content = (claim / "results.json").read_text()
    assert [(name, entry["summary"]["accuracy"]) for name, entry in json.loads(content).items()] == [("a", 0.25), ("b", 0.75)]
    assert content.endswith("}\n")


def test_an_unfinished_run_is_refused_and_nothing_is_written(run: Callable[..., None], tmp_path: Path) -> None:
    run(tmp_path, "done", summary={})
    run(tmp_path, "dead", steps=2)
    with pytest.raises(UserError, match=r"dead holds no summary\.json: give the folder of a finished run"):
        record([tmp_path / "done", tmp_path / "dead"], tmp_path / "claim")
    assert not (tmp_path / "claim").exists()


def test_chosen_curves_are_kept_without_steps_that_lack_them(run: Callable[..., None], tmp_path: Path) -> None:
    run(tmp_path, "a", summary={}, steps=3)
    claim = tmp_path / "claim"
    record([tmp_path / "a"], claim, ["loss"])
    assert json.loads((claim / "results.json").read_text())["a"]["curves"] == {"loss": [[1, 1.0], [2, 0.5], [3, 1 / 3]]}
    before = (claim / "results.json").read_bytes()
    with pytest.raises(UserError, match="has no metric 'typo': give one that the run logged"):
        record([tmp_path / "a"], claim, ["typo"])
    assert (claim / "results.json").read_bytes() == before
