"""The best step of a run keeps its checkpoint, also beyond a resume."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.report import ReportConfig
from triptych.run.best import BestStep
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.run.step import Evaluations

SCORES = [0.1, 0.6, 0.3, math.nan, 0.5, 0.6, 0.4]


class Nothing:
    def save(self, directory: Path) -> None:
        (directory / "nothing").write_text("")

    def load(self, directory: Path) -> None:
        pass


def train(
    root: Path, scores: Sequence[float], until: int, *, best: str | None = "score", lower: bool = False, resume_step: int | None = None
) -> list[int]:
    """Evaluates after each step; returns the steps of the checkpoints that are kept."""
    settings = CheckpointConfig(every_steps=3, keep=1, keep_best=best, lower_is_better=lower)
    config = RunConfig(name="a", output_root=str(root), device="cpu", checkpoint=settings, resume_step=resume_step)
    with Run.open(config) as run:
        state = {"nothing": Nothing()}
        first = 1 + (run.begin(state) or 0)
        evaluations = Evaluations(lambda: {"score": scores[step.number - 1]}, 1)
        for step in run.steps(until, state, first=first, evaluations=evaluations):
            step.metrics["number"] = step.number
        run.finish({}, report=ReportConfig("test"))
        return run.checkpoint_steps


def test_the_best_checkpoint_is_kept_until_a_better_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "one", SCORES, 7) == [2, 7]
    assert "best               step 2 (score 0.6): triptych export" in capsys.readouterr().out
    assert train(tmp_path / "two", SCORES, 7, lower=True) == [1, 7]
    assert train(tmp_path / "three", [0.1, 0.2, 0.3, 0.4], 4) == [4]
    assert train(tmp_path / "four", SCORES, 7, best=None) == [7]
    assert capsys.readouterr().out.count("--step") == 2, "one line for each run with such a metric"


def test_a_resumed_run_knows_its_best_step(tmp_path: Path) -> None:
    for until in range(1, 8):
        kept = train(tmp_path, SCORES, until)
    assert kept == [2, 7]


def test_a_step_that_was_gone_back_from_is_not_the_best(tmp_path: Path) -> None:
    assert train(tmp_path, [0.5, 0.1, 0.9], 3) == [3]
    assert train(tmp_path / "b", [0.5, 0.1], 2) == [1, 2]
    assert train(tmp_path / "b", [0.5, 0.2, 0.3, 0.4], 4, resume_step=1) == [1, 4]


class Unsound:
    """A guard of a run whose fourth update was skipped."""

    is_sound = True

    def check(self, step: int) -> None: ...


def test_a_step_without_a_checkpoint_is_not_the_best(tmp_path: Path) -> None:
    """An update that was skipped postpones the checkpoint; a setting that comes later finds the checkpoints that are left."""
    settings = CheckpointConfig(every_steps=2, keep=1, keep_best="score")
    guard, scores = Unsound(), [0.1, 0.7, 0.3, 0.9, 0.2, 0.2, 0.2, 0.2]
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu", checkpoint=settings)) as run:
        state = {"nothing": Nothing()}
        run.begin(state)
        for step in run.steps(8, state, guard=guard):
            guard.is_sound = step.number != 4
            step.metrics["score"] = scores[step.number - 1]
        assert (run.best_step, run.checkpoint_steps) == (2, [2, 8])
    assert train(tmp_path / "b", [0.1, 0.2, 0.9], 3, best=None) == [3]
    assert train(tmp_path / "c", [0.1, 0.9, 0.2], 3, best=None) == [3]
    assert train(tmp_path / "c", [0.1, 0.9, 0.2, 0.5, 0.1], 5) == [4, 5]


def test_a_metric_that_no_step_logs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, SCORES, 4, best="typo") == [4]
    assert "checkpoint.keep_best is 'typo', which no step has logged" in capsys.readouterr().out


def test_rows_are_those_of_a_run_without_it(tmp_path: Path) -> None:
    for name, best in (("with", "score"), ("without", None)):
        train(tmp_path / name, SCORES, 7, best=best)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "a" / "metrics.jsonl").read_text().splitlines()] for name in ("with", "without")
    ]
    assert rows[0] == rows[1]


def test_no_metric_follows_nothing() -> None:
    best = BestStep(None)
    best.observe({"score": 1.0}, 1)
    assert best.step is None
