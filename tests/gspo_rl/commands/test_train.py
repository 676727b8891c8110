"""`gspo-train`: files of a run, the saved policy, and refusals before a model is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file

from gspo_rl.evaluation import EvaluationConfig, evaluate
from gspo_rl.models.policy import pretrained_policy
from gspo_rl.models.recorded import read_recorded
from gspo_rl.records import read_records
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import character_tokenizer
from triptych.distributed import World

QUICK = [
    "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32", "cold_start.steps=3", "cold_start.batch_size=4",
    "trainer.max_steps=2", "trainer.prompts_per_step=4", "trainer.group_size=2", "evaluation.num_prompts=4", "evaluation.num_samples=2",
    "sampling.max_tokens=8", "device=cpu",
]  # fmt: skip


def test_the_saved_policy_has_the_accuracy_of_the_summary(run_command: Callable[..., int], tmp_path: Path) -> None:
    assert run_command("train", *QUICK, "seed=5", "name=t") == 0
    folder = tmp_path / "outputs" / "t"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["objective"], summary["steps"], summary["seed"]) == ("gspo", 2, 5)
    policy = pretrained_policy(str(folder / "policy"))
    assert policy.num_parameters == summary["num_parameters"]
    result = evaluate(
        StaticCacheEngine(policy), ArithmeticTask(seed=5), SamplingConfig(max_tokens=8), EvaluationConfig(num_prompts=4, num_samples=2),
        world=World(), seed=5,
    )  # fmt: skip
    assert summary["accuracy_after"] == result.accuracy.mean
    assert summary["pass_at_k_after"] == {str(k): interval.mean for k, interval in result.pass_at.items()}
    rows = [json.loads(line) for line in (folder / "completions_after.jsonl").read_text().splitlines()]
    assert rows == [sample._asdict() for sample in result.samples]
    assert len((folder / "completions_before.jsonl").read_text().splitlines()) == 4
    assert not list(folder.glob(".policy.partial"))
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]


def test_the_logged_commands_keep_the_overrides(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """The longer run repeats all overrides with twice the steps; the evaluation only those of task, seed and sampling."""
    assert run_command("train", *QUICK, "seed=5", "name=t") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith(("continue", "evaluate"))}
    repeated = " ".join(argument for argument in QUICK if not argument.startswith("trainer.max_steps"))
    assert lines["continue"].endswith(f'make train-gspo ARGS="{repeated} seed=5 name=t trainer.max_steps=4"')
    assert lines["evaluate"].endswith('make evaluate-gspo ARGS="policy.path=outputs/t/policy seed=5"')


@pytest.mark.parametrize("adapter", [[], ["adapter=lora", "adapter.rank=2"]], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen3Moe"])
def test_a_folder_of_any_architecture_and_a_file_of_questions_need_no_further_setting(
    run_command: Callable[..., int], tmp_path: Path, family: str, adapter: list[str]
) -> None:
    tokenizer = character_tokenizer()
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32,
        "max_position_embeddings": 64, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    names = {"GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}}
    tokens = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    config = getattr(transformers, f"{family}Config")(**{**names.get(family, sizes), **tokens})
    model_class = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    getattr(transformers, model_class)(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"question": f"{n}+{n}=", "answer": str(2 * n)}) for n in range(40)]
    (tmp_path / "questions.jsonl").write_text("\n".join(rows))
    arguments = [
        "name=mine", "task=jsonl", "task.path=questions.jsonl", "policy=pretrained", "policy.path=model", "trainer.max_steps=3",
        "trainer.prompts_per_step=4", "trainer.group_size=2", "evaluation.num_prompts=2", "sampling.max_tokens=8", "device=cpu",
    ]  # fmt: skip
    assert run_command("train", *arguments, *adapter) == 0
    saved = tmp_path / "outputs" / "mine" / "policy"
    assert (saved / "adapter" / "adapter_model.safetensors").is_file() == bool(adapter)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", saved))
    assert before.keys() == after.keys(), "a saved policy has the names of the model it came from"
    assert run_command("evaluate", f"policy.path={saved}", "evaluation.num_prompts=2", "device=cpu") == 0


def test_an_evaluation_leaves_out_the_prompts_that_the_training_left_out(
    run_command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cold start too: its demonstrations are of the prompts that are left."""
    arguments = [*QUICK, "prompts.overlong=drop", "prompts.max_tokens=9", "name=t", "sampling.max_tokens=24"]
    assert run_command("train", *arguments, "policy.max_positions=120") == 0
    assert "have more than 9 tokens and are left out" in capsys.readouterr().out
    assert (
        run_command("evaluate", "policy.path=outputs/t/policy", "evaluation.num_prompts=30", "evaluation.num_samples=1", "device=cpu") == 0
    )
    (record,) = read_records(tmp_path / "outputs" / "evaluate-gspo")
    prompts = ArithmeticTask(seed=0).prompts("held_out")
    assert all(prompts[row["index"]].text == row["prompt"] for row in record.rows), "the index is that of the whole split"
    indices = [row["index"] for row in record.rows[::2]]
    assert indices == [index for index, prompt in enumerate(prompts) if len(prompt.text) <= 9][:30]
    assert indices != list(range(30)), "the case leaves none out"


def test_a_cold_start_of_another_adapter_is_not_reused(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for name, alpha, reused in (("a", 2, False), ("b", 64, False), ("c", 64, True)):
        assert run_command("train", *QUICK, "adapter=lora", "adapter.rank=2", f"adapter.alpha={alpha}", f"name={name}") == 0
        assert ("read from" in capsys.readouterr().out) == reused


def test_a_task_from_the_environment_is_not_written_into_the_policy(
    run_command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"question": f"{n}+{n}=", "answer": str(2 * n)}) for n in range(40)))
    monkeypatch.setenv("QUESTIONS", str(tmp_path / "q.jsonl"))
    assert run_command("train", *QUICK, "task=jsonl", "task.path=${oc.env:QUESTIONS}", "cold_start.steps=0", "name=t") == 0
    assert read_recorded(tmp_path / "outputs" / "t" / "policy")["training"]["task"] is None


def test_an_invalid_objective_is_refused_before_a_folder_is_made(
    run_command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command("train", *QUICK, "objective.clip_low=0.2") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "objective.clip_low is 0.2" in line
    assert "allow_wide_clip=true" in line
    assert not (tmp_path / "outputs").exists()
