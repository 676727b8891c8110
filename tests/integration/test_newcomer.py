"""Commands of the language-model panel: results, resume after a kill, several processes, and report pages."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from gspo_rl.numerics.objectives import ObjectiveOutput

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]
SMALL = [
    "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32", "cold_start.steps=4", "trainer.prompts_per_step=8",
    "trainer.group_size=4", "evaluation.num_prompts=8", "evaluation.num_samples=2", "sampling.max_tokens=24", "device=cpu",
]  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spawn(arguments: list[str], folder: Path, *, processes: int = 1) -> "subprocess.Popen[str]":
    """The command in an interpreter of its own, as the Makefile starts it."""
    launcher = ["-m"] if processes == 1 else ["-m", "triptych.commands.launch", "--standalone", f"--nproc-per-node={processes}", "-m"]
    environment = {**os.environ, "TRIPTYCH_CONFIGS": str(ROOT / "configs"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "gspo_rl.commands.train", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_a_run_writes_its_results_and_logs_the_next_commands(command: Command, tmp_path: Path) -> None:
    outcome = command("train_gspo", "output_root=elsewhere", "seed=3")
    assert outcome.code == 0, outcome
    folder = tmp_path / "elsewhere" / "gspo"
    summary = json.loads((folder / "summary.json").read_text())
    assert {"accuracy_before", "accuracy_after", "train_seconds", "tokens_per_second"} <= set(summary)
    assert summary["seed"] == 3
    assert [row["step"] for row in rows(folder)] == [0, 1, 2]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000000", "step_00000002"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["task"]["seed"]) == (3, 3), "the resolved config holds no interpolation"
    for text in ("held-out accuracy", "elsewhere/gspo/report.html", "make train-gspo", "trainer.max_steps=4", "output_root=elsewhere"):
        assert text in outcome.out, text
    page = (folder / "report.html").read_text()
    samples = [json.loads(line) for line in (folder / "completions_after.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"] in page
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "policy"), AutoTokenizer.from_pretrained(folder / "policy")
    assert model.config.model_type == "qwen3"
    assert tokenizer.decode(tokenizer("1+2=")["input_ids"]) == "1+2="

    again = command("train_gspo", "output_root=elsewhere", "seed=3")
    assert again.code == 0, again
    assert "resuming from step 2" in again.out
    assert json.loads((folder / "summary.json").read_text()) == summary, "a finished run is reported again, not repeated"

    evaluated = command(
        "evaluate_gspo", "policy.path=elsewhere/gspo/policy", "evaluation.num_prompts=8", "evaluation.num_samples=4", "seed=3"
    )
    assert evaluated.code == 0, evaluated
    result = json.loads((tmp_path / "outputs" / "evaluate-gspo" / "summary.json").read_text())
    assert set(result["metrics"]) == {"avg@4", "greedy", "pass@1", "pass@2", "pass@4"}
    assert result["metrics"]["avg@4"]["mean"] == result["metrics"]["pass@1"]["mean"]
    twice = command("evaluate_gspo", "policy.path=elsewhere/gspo/policy", "evaluation.num_prompts=4", "evaluation.num_samples=2")
    assert twice.code == 0, twice


@pytest.mark.parametrize("objective", ["grpo", "gspo_token"])
def test_the_other_objectives_start_from_the_same_cold_start(command: Command, tmp_path: Path, objective: str) -> None:
    assert command("train_gspo", "name=a").code == 0
    other = command("train_gspo", "name=b", f"objective={objective}")
    assert other.code == 0, other
    assert "cold start: read from" in other.out
    assert rows(tmp_path / "outputs" / "a")[0] == rows(tmp_path / "outputs" / "b")[0]


def test_an_objective_without_metrics_trains(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, **_: object) -> ObjectiveOutput:
        losses = -torch.where(mask, (logprobs - old_logprobs).exp() * advantages[:, None], 0.0).sum(1)
        return ObjectiveOutput(losses, mask.sum(1).float(), {})

    module = ModuleType("plain_objective")
    module.plain = plain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plain_objective", module)
    outcome = command("train_gspo", "objective._target_=plain_objective.plain", "name=plain")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs" / "plain"
    assert json.loads((folder / "summary.json").read_text())["clip_fraction_tokens"] is None
    assert not any("clip" in key for row in (folder / "metrics.jsonl").read_text().splitlines() for key in json.loads(row))
    assert (folder / "report.html").is_file()


def test_a_file_of_questions_trains_a_saved_policy(command: Command, tmp_path: Path) -> None:
    assert command("train_gspo", "name=first").code == 0
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"question": f"{n}+1=", "answer": n + 1}) + "\n" for n in range(80)))
    outcome = command(
        "train_gspo", "name=second", "task=jsonl", "task.path=data.jsonl", "policy=pretrained", "policy.path=outputs/first/policy",
        "rollout=transformers", "trainer.max_steps=1", "trainer.old_logprobs=recompute", "evaluation.num_prompts=4", quick=False,
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert "cold start" not in outcome.out


def test_a_sweep_gives_every_member_a_folder_of_its_own(command: Command, tmp_path: Path) -> None:
    outcome = command("train_gspo", "name=sweep", "objective=gspo,grpo", "trainer.max_steps=1", "-m")
    assert outcome.code == 0, outcome
    summaries = sorted((tmp_path / "outputs" / "sweep").rglob("summary.json"))
    assert [json.loads(path.read_text())["objective"] for path in summaries] == ["grpo", "gspo"]
    assert not {path.name for path in tmp_path.iterdir()} - {"outputs", "out.txt", "err.txt"}, "a sweep writes below outputs alone"


@pytest.mark.slow
def test_kill_9_at_any_moment_and_the_same_command_end_with_the_same_bytes(tmp_path: Path) -> None:
    """Kills inside the cold start, between steps and inside steps; the last command runs through."""
    arguments = [*SMALL, "trainer.max_steps=12", "checkpoint.every_steps=3", "trainer.prompts_per_step=32", "cold_start.steps=30"]
    whole = spawn([*arguments, "name=whole", "output_root=whole"], tmp_path)
    assert whole.wait() == 0, whole.communicate()[1]
    metrics = tmp_path / "killed" / "a" / "metrics.jsonl"
    reached = []
    for target in (0, 2, 5, 9):  # lines in the file at the kill, which is sent inside the next step
        process = spawn([*arguments, "name=a", "output_root=killed"], tmp_path)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if target == 0 and (tmp_path / "killed" / "a").exists():
                time.sleep(0.5)  # in the cold start or its first evaluation
                break
            if target and metrics.exists() and len(metrics.read_text().splitlines()) > target:
                time.sleep(0.013 * target)
                break
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        reached.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
    final = spawn([*arguments, "name=a", "output_root=killed"], tmp_path)
    out, err = final.communicate()
    assert final.returncode == 0, err
    assert "resuming from step" in out
    assert metrics.read_bytes() == (tmp_path / "whole" / "whole" / "metrics.jsonl").read_bytes()
    keys = ("accuracy_before", "accuracy_after", "accuracy_gain_interval", "greedy_after")
    summaries = [json.loads((tmp_path / folder / "summary.json").read_text()) for folder in ("whole/whole", "killed/a")]
    assert [summaries[0][key] for key in keys] == [summaries[1][key] for key in keys]
    assert max(reached) > 5, reached


@pytest.mark.slow
def test_two_processes_give_the_reward_curve_of_one_and_refuse_in_one_line(tmp_path: Path) -> None:
    arguments = [*SMALL, "trainer.max_steps=3"]
    one = spawn([*arguments, "name=one"], tmp_path)
    assert one.wait() == 0, one.communicate()[1]
    two = spawn([*arguments, "name=two"], tmp_path, processes=2)
    out, err = two.communicate()
    assert two.returncode == 0, err
    single, double = rows(tmp_path / "outputs" / "one"), rows(tmp_path / "outputs" / "two")
    assert [row["step"] for row in single] == [row["step"] for row in double] == [0, 1, 2, 3]
    for first, second in zip(single[1:], double[1:], strict=True):
        assert second["reward/mean"] == pytest.approx(first["reward/mean"], abs=1e-5)
        assert second["entropy"] == pytest.approx(first["entropy"], abs=1e-4)
    assert json.loads((tmp_path / "outputs" / "two" / "summary.json").read_text())["world_size"] == 2
    assert out.count("held-out accuracy") == 1, "only rank 0 reports"

    wrong = spawn([*arguments, "name=two", "seed=1"], tmp_path, processes=2)
    _, err = wrong.communicate()
    assert wrong.returncode == 2, err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if "error: " in line]) == 1, err
    assert "holds a run with seed=0 instead of 1" in err
