"""Bad input: one line with what is wrong, where, and the remedy; exit code 2; no traceback; nothing half-written."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gspo_rl.toy.policy import tiny_policy

Command = Callable[..., Any]


def refused(outcome: Any, *expected: str) -> None:
    assert outcome.code == 2, outcome
    lines = outcome.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, outcome.err
    assert lines[-1] == errors[0], outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    for text in expected:
        assert text in errors[0], errors[0]


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("train_gspo", "experiment=gspo/clip_fraction", "it is experiment=clip_fraction"),
        ("evaluate_var", "experiment=var/what_pays", "it is experiment=what_pays"),
        ("train_cinema", "recipe=cinema_shipped", "it is recipe=shipped"),
        ("train_gspo", "memory=golden", "unknown setting memory"),
        ("evaluate_cinema", "memory=golden", "this command selects memory as memory@memories.best or"),
        ("train_cinema", "model=tiny_cinema", "this command selects model as model@film.model"),
        ("generate_cinema", "drawing.shift=2", "drawing.shift was renamed: use sampling.shift"),
        # Arguments of a choice are type-checked as well.
        ("train_cinema", "probe.num_stories=abc", "probe.num_stories is abc"),
        ("train_cinema", "keyframes.model.width=abc", "keyframes.model.width is abc"),
        ("evaluate_cinema", "evaluation.lengths=8", "evaluation.lengths is 8"),
        ("generate_cinema", "video.scale=3", "video.scale is 3 but the film's scale is 6"),
        ("train_var", "transformer.model.num_heads=abc", "transformer.model.num_heads is abc"),
    ],
)
def test_a_single_wrong_argument_is_refused_with_its_remedy(command: Command, name: str, argument: str, expected: str) -> None:
    refused(command(name, argument, quick=False), expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.max_stepz=3"], ["unknown setting trainer.max_stepz", "did you mean trainer.max_steps?"]),
        (["nonsense=1"], ["unknown setting nonsense"]),
        (["objective=ppo"], ["unknown choice objective/ppo", "gspo, gspo_token"]),
        (["objectives=gspo"], ["objectives"]),
        (["trainer.max_steps=many"], ["trainer.max_steps=many", "many", "Integer"]),
        (["trainer.group_size=1"], ["trainer.group_size is 1", "2 or more"]),
        (["objective.clip_low=0.2"], ["can never fire", "allow_wide_clip=true"]),
        (["policy=pretrained"], ["policy.path"]),
        (["policy=pretrained", "policy.path=/no/such/model"], ["policy.path is '/no/such/model'", "no such folder"]),
        (["task=jsonl", "task.path=none.jsonl"], ["task.path is 'none.jsonl'", "no such file"]),
        (["task.num_prompts=0"], ["task.num_prompts is 0", "empty"]),
        (["task.num_held_out=0"], ["task.num_held_out 0", "empty"]),
        (["policy.max_positions=24", "cold_start.steps=0"], ["the policy holds 24 positions"]),
        (["policy.num_heads=5"], ["num_heads"]),
        (["objective.clip_low=abc"], ["objective.clip_low is abc", "Float"]),
        (["policy.num_layers=two"], ["policy.num_layers is two", "Integer"]),
        (["rollout=transformers", "sampling.temperature=0"], ["sampling.temperature is 0"]),
        (["name=../elsewhere"], ["name is '../elsewhere'"]),
        (["trainer.prompts_per_step=5"], ["trainer.prompts_per_step is 5"]),
        (["resume=must"], ["resume=must"]),
        (["device=cuda:7"], ["device is 'cuda:7'"]),
        (["-m", "trainer.group_size=2,1"], ["trainer.group_size is 1", "member trainer.group_size=1; none was started"]),
        (["-m", "objective.clip_low=3e-4,0.2", "seed=0,1"], ["can never fire", "member objective.clip_low=0.2 seed=0; none was started"]),
        (["-m", "strategy=ddp,ddq"], ["unknown choice strategy/ddq"]),
        (["a b"], ["cannot read 'a b'", "key=value"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_is_refused_in_one_line_and_writes_no_file(
    command: Command, tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    refused(command("train_gspo", *arguments, quick="policy=pretrained" not in arguments), *expected)
    left = {path.name for path in tmp_path.iterdir()} - {"out.txt", "err.txt"}
    assert not left, f"half-written: {left}"


def test_a_cold_start_that_diverges_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("train_gspo", "cold_start.learning_rate=1e30", "cold_start.steps=8"), "the cold start diverges at step 2")
    assert not (tmp_path / "outputs" / "cache").exists()


def test_a_broken_line_of_a_file_is_named(command: Command, tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{n}+1=", "answer": str(n + 1)}) for n in range(50)]
    rows[36] = rows[36][:-4]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    refused(command("train_gspo", "task=jsonl", "task.path=data.jsonl"), "line 37")
    assert not (tmp_path / "outputs").exists()


def test_prompts_longer_than_the_model_are_refused(command: Command, tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{'x' * 300}{n}+1=", "answer": str(n + 1)}) for n in range(50)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    refused(
        command("train_gspo", "task=jsonl", "task.path=data.jsonl", "cold_start.steps=0"), "longest prompt has 305 tokens", "256 positions"
    )
    assert not (tmp_path / "outputs").exists()


def test_a_policy_without_a_tokenizer_is_refused(command: Command, tmp_path: Path) -> None:
    tiny_policy(hidden_size=16, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=16).model.save_pretrained(
        tmp_path / "model"
    )
    refused(command("evaluate_gspo", "policy.path=model"), "policy.path is 'model'")


def test_changed_settings_damaged_checkpoints_and_divergence_are_refused(command: Command, tmp_path: Path) -> None:
    """One finished run, then every failure on resume."""
    options = ["name=a", "checkpoint.every_steps=1", "checkpoint.keep=9"]
    assert command("train_gspo", *options).code == 0
    folder = tmp_path / "outputs" / "a"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    refused(
        command("train_gspo", *options, "optimizer.learning_rate=1e-3"), "optimizer.learning_rate=5e-05 instead of 0.001", "overwrite=true"
    )
    refused(
        command("train_gspo", *options, "objective=grpo"),
        "objective._target_=gspo_rl.numerics.objectives.gspo instead of gspo_rl.numerics.objectives.grpo",
    )
    refused(command("train_gspo", *options, "policy.hidden_size=64"), "policy.hidden_size=32 instead of 64")
    refused(command("train_gspo", *options, "resume=never"), "resume=never")
    refused(command("train_gspo", *options, "resume_step=7"), "resume_step is 7", "0, 1, 2")
    refused(command("evaluate_gspo", "policy.path=outputs/a/policy", "name=a", "overwrite=true"), "not an earlier run of this command")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, "a refused command changes nothing"

    model = folder / "checkpoints" / "step_00000002" / "model" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-100] ^= 4
    model.write_bytes(content)
    refused(
        command("train_gspo", *options), "step_00000002 is damaged", "model/model.safetensors does not match its checksum", "resume_step=1"
    )
    model.write_bytes(bytes(content[: len(content) // 2]))
    refused(command("train_gspo", *options, "trainer.max_steps=3"), "step_00000002 is damaged", "bytes instead of", "resume_step=1")
    good = command("train_gspo", *options, "resume_step=1")
    assert good.code == 0, good
    assert (folder / "metrics.jsonl").read_bytes() == before[folder / "metrics.jsonl"], "the repaired run ends with the same numbers"

    diverged = command("train_gspo", "name=nan", "optimizer.learning_rate=1e36", "optimizer.weight_decay=100", "optimizer.warmup_steps=0")
    refused(diverged, "at step 1", "the checkpoint of step 0 is intact")
    assert [path.name for path in (tmp_path / "outputs" / "nan" / "checkpoints").iterdir()] == ["step_00000000"]


def test_a_sweep_by_several_processes_is_refused(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(command("train_gspo", "-m", "seed=0,1"), "a sweep (-m) was started by several processes", "NPROC=1")


@pytest.mark.faults
@pytest.mark.mount
def test_a_full_disk_while_writing_a_checkpoint_keeps_the_last_good_one(command: Command, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a 4 MB file system needs root")
    try:
        # 50,000 parameters and their two moments: 0.6 MB a checkpoint.
        outcome = command(
            "train_gspo", "name=full", "output_root=disk", "policy.hidden_size=64", "policy.intermediate_size=96", "checkpoint.every_steps=1",
            "checkpoint.keep=50", "trainer.max_steps=50", "trainer.prompts_per_step=4", "trainer.group_size=2",
        )  # fmt: skip
        refused(outcome, "could not be written to disk/full/checkpoints", "MB free", "is intact")
        steps = sorted(path.name for path in (disk / "full" / "checkpoints").iterdir())
        assert steps
        assert all(name.startswith("step_0") and name[5:].isdigit() for name in steps), steps
        kept = shutil.copytree(disk / "full", tmp_path / "outputs" / "full")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    last = int(steps[-1][5:])
    again = command(
        "train_gspo", "name=full", "policy.hidden_size=64", "policy.intermediate_size=96", "checkpoint.every_steps=1", "checkpoint.keep=50",
        f"trainer.max_steps={max(50, last)}", "trainer.prompts_per_step=4", "trainer.group_size=2", "resume=must",
    )  # fmt: skip
    assert again.code == 0, again
    assert f"resuming from step {last}" in again.out
    assert (kept / "summary.json").exists()
