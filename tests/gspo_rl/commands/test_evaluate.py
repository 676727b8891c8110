"""`gspo-evaluate`: the files of an evaluation hold the numbers of `gspo_rl.evaluation.evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gspo_rl.evaluation import EvaluationConfig, evaluate
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import tiny_policy
from triptych.distributed import World

QUICK = ["policy.path=saved", "evaluation.num_prompts=4", "evaluation.num_samples=2", "sampling.max_tokens=8", "device=cpu"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A random policy in the folder `saved`."""
    policy = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=32)
    policy.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_files_hold_the_result_of_the_library(run_command: Callable[..., int], saved: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", *QUICK, "seed=3", "name=e") == 0
    policy = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=32)
    expected = evaluate(
        TransformersEngine(policy), ArithmeticTask(seed=3), SamplingConfig(max_tokens=8), EvaluationConfig(num_prompts=4, num_samples=2),
        world=World(), seed=3,
    )  # fmt: skip
    folder = tmp_path / "outputs" / "e"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["policy"], summary["task"], summary["split"]) == ("saved", "ArithmeticTask", "held_out")
    assert (summary["num_prompts"], summary["num_samples"], summary["seed"]) == (4, 2, 3)
    assert (summary["accuracy"], summary["mean_length"]) == (expected.accuracy.mean, expected.mean_length)
    assert summary["metrics"]["greedy"] == expected.greedy._asdict()
    assert set(summary["metrics"]) == {"avg@2", "greedy", "pass@1", "pass@2"}
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert rows == [sample._asdict() for sample in expected.samples]
    assert "4 prompts of the held_out split, 2 samples each" in (folder / "report.html").read_text()


def test_a_second_evaluation_replaces_the_first(run_command: Callable[..., int], saved: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", *QUICK) == 0
    assert run_command("evaluate", *QUICK, "evaluation.num_samples=1") == 0
    assert json.loads((tmp_path / "outputs" / "evaluate-gspo" / "summary.json").read_text())["num_samples"] == 1


def test_a_missing_policy_is_refused_in_one_line(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("evaluate", "policy.path=./missing") == 2
    assert capsys.readouterr().err.strip().splitlines() == ["error: policy.path is './missing': there is no such folder"]
