"""`gspo-evaluate`: the files of an evaluation hold the numbers of `gspo_rl.evaluation.evaluate`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gspo_rl.evaluation import EvaluationConfig, evaluate
from gspo_rl.records import read_records
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import tiny_policy
from triptych.commands.main import main as triptych
from triptych.distributed import World

TRAINING = {
    "task": {"_target_": "gspo_rl.toy.arithmetic.ArithmeticTask", "seed": 3},
    "sampling": {"max_tokens": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "stop": [], "stop_token_ids": []},
}
QUICK = ["policy.path=saved", "evaluation.num_prompts=4", "evaluation.num_samples=2", "device=cpu"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A random policy in the folder `saved`."""
    policy = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=64)
    policy.training = TRAINING
    policy.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_files_hold_the_result_of_the_library(run_command: Callable[..., int], saved: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", *QUICK, "seed=3", "name=e") == 0
    policy = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=64)
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


def test_task_and_sampling_are_those_of_the_training_unless_given(run_command: Callable[..., int], saved: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", *QUICK, "name=own", "seed=9") == 0
    assert run_command("evaluate", *QUICK, "name=given", "seed=9", "task=addition", "task.highest=20", "sampling.max_tokens=6", "evaluation.sampling.temperature=0") == 0  # fmt: skip
    (own,), (given,) = (list(read_records(tmp_path / "outputs" / name)) for name in ("own", "given"))
    assert [row["prompt"] for row in own.rows[::3]] == [prompt.text for prompt in ArithmeticTask(seed=3).prompts("held_out")[:4]]
    assert max(len(row["token_ids"]) for row in own.rows) == 8
    assert all(row["prompt"].startswith("What is") for row in given.rows)
    assert max(len(row["token_ids"]) for row in given.rows) == 6
    for index in range(0, 12, 3):
        first, second, greedy = (row["token_ids"] for row in given.rows[index : index + 3])
        assert first == second == greedy, "temperature 0"


def test_stored_completions_can_be_graded_again(
    run_command: Callable[..., int], saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("evaluate", *QUICK, "name=e") == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["triptych", "regrade", "outputs/e"])
    triptych()
    assert capsys.readouterr().out.splitlines()[-1] == "0 rewards differ"
    assert run_command("evaluate", *QUICK, "name=none", "store_completions=false") == 0
    assert not (tmp_path / "outputs" / "none" / "completions").exists()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (None, "error: the folder of the policy (saved) does not tell what it was trained on: choose a task, such as task=arithmetic"),
        ({"task": {"a": 1}}, "error: the folder of the policy (saved) does not tell what it was trained on"),
        ({"task": {"_target_": "shutil.rmtree"}}, "error: the task of the policy's folder is shutil.rmtree, which is no task of gspo-rl"),
        ({"task": {"_target_": "gspo_rl.tasks.grading.grade"}}, "error: the task of the policy's folder is gspo_rl.tasks.grading.grade"),
        ({"task": {"_target_": "gspo_rl.tasks.fitting.PromptConfig"}}, "error: the task of the policy's folder is gspo_rl.tasks.fitting"),
        (
            {"task": {"_target_": "triptych.files.write_atomically", "path": "x", "content": "y"}},
            "error: the task of the policy's folder is",
        ),
        (
            {"task": {**TRAINING["task"], "seed": {"_target_": "pathlib.Path"}}},
            "error: the task of the policy's folder has 'seed._target_'",
        ),
        ({"task": {**TRAINING["task"], "_args_": [1]}}, "error: the task of the policy's folder has '_args_"),
        ({**TRAINING, "sampling": {"beams": 4}}, "error: the folder of the policy (saved) names settings of sampling that do not exist"),
    ],
)
def test_a_folder_without_a_usable_task_is_refused_in_one_line(
    run_command: Callable[..., int], saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], training: Any, message: str
) -> None:
    recorded = saved / "prompting.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "training": training}))
    assert run_command("evaluate", *QUICK) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "outputs").exists()


def test_a_second_evaluation_replaces_the_first(run_command: Callable[..., int], saved: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", *QUICK) == 0
    assert run_command("evaluate", *QUICK, "evaluation.num_samples=1") == 0
    assert json.loads((tmp_path / "outputs" / "evaluate-gspo" / "summary.json").read_text())["num_samples"] == 1


def test_a_missing_policy_is_refused_in_one_line(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("evaluate", "policy.path=./missing") == 2
    assert capsys.readouterr().err.strip().splitlines() == ["error: policy.path is './missing': there is no such folder"]
