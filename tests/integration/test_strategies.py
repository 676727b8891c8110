"""All panels under the strategies that shard: a run of two processes is resumed by one, and by two again."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from triptych.checkpoint.export import export
from triptych.own_files import JOURNAL

ROOT = Path(__file__).parents[2]
PANELS = {
    "captain_cinema": [
        "data.num_examples=8", "keyframes.model.width=32", "keyframes.model.num_heads=2", "keyframes.model.num_single=2",
        "keyframes.trainer.batch_size=2", "keyframes.trainer.log_every=1", "keyframes.curriculum=[{num_pairs: 3, num_steps: 4}]",
        "probe.num_stories=2", "probe.num_past=4", "sampling.num_steps=1", "film.storyline=null", "stages=[keyframes]",
    ],
    "gspo_rl": [
        "policy.hidden_size=32", "policy.num_layers=2", "policy.intermediate_size=64", "cold_start.steps=250", "task.min_digits=1",
        "task.max_digits=1", "sampling.max_tokens=16",
        "trainer.max_steps=4", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.minibatches=2",
        "trainer.microbatch_tokens=200", "evaluation.num_prompts=8", "evaluation.num_samples=2", "optimizer.warmup_steps=0",
    ],
    "tts_var": [
        "data.num_examples=16", "stages=[transformer]", "tokenizer.model.base_channels=4", "tokenizer.model.norm_groups=2",
        "transformer.model.depth=2", "transformer.model.width=64", "transformer.model.num_heads=2", "transformer.trainer.batch_size=2",
        "transformer.trainer.max_steps=4", "transformer.trainer.log_every=1",
    ],
}  # fmt: skip
STAGE = {"captain_cinema": "keyframes", "gspo_rl": "", "tts_var": "transformer"}
TOKENIZER = [
    "stages=[tokenizer]", "data.num_examples=16", "tokenizer.model.base_channels=4", "tokenizer.model.norm_groups=2",
    "tokenizer.trainer.batch_size=2", "tokenizer.trainer.max_steps=1",
]  # fmt: skip


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_files(expected: Path, found: Path) -> None:
    names, others = ({path.name for path in folder.iterdir() if path.name != JOURNAL} for folder in (expected, found))
    assert others == names | {"export.json"}
    for name in names:
        if name.endswith(".safetensors"):
            ours, theirs = load_file(found / name), load_file(expected / name)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], value) for key, value in theirs.items())
        else:
            ours, theirs = (json.loads((folder / name).read_text()) for folder in (found, expected))
            assert ours == theirs, name


@pytest.mark.parametrize("panel", sorted(PANELS))
@pytest.mark.parametrize("strategy", [pytest.param("deepspeed_zero3", marks=pytest.mark.deepspeed), "fsdp"])
def test_a_run_resumes_with_other_numbers_of_processes(command: Callable, tmp_path: Path, panel: str, strategy: str) -> None:
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    name = {"captain_cinema": "train_cinema", "gspo_rl": "train_gspo", "tts_var": "train_var"}[panel]
    settings = [*PANELS[panel], "checkpoint.every_steps=1", "checkpoint.keep=9"]

    def alone(run: str, *more: str) -> None:
        outcome = command(name, f"name={run}", *settings, *more, quick=False)
        assert outcome.code == 0, outcome.err

    def together(run: str, *more: str) -> None:
        launch = [sys.executable, "-m", "triptych.commands.launch", "--standalone", "--nproc-per-node=2", "-m", f"{panel}.commands.train"]
        arguments = [f"name={run}", f"output_root={tmp_path / 'outputs'}", *settings, *more]
        outcome = subprocess.run([*launch, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
        assert outcome.returncode == 0, outcome.stderr[-3000:]

    if panel == "tts_var":  # the stage reads a tokenizer
        for run in ("plain", "sharded"):
            outcome = command(name, f"name={run}", *TOKENIZER)
            assert outcome.code == 0, outcome.err
    alone("plain")
    # Starting two processes twice dominates the time, so DeepSpeed runs two processes for one panel only.
    (alone if strategy.startswith("deepspeed") and panel != "gspo_rl" else together)("sharded", f"strategy={strategy}")
    alone("sharded", f"strategy={strategy}", "resume_step=1")
    if panel == "gspo_rl":  # the others share their loop
        together("sharded", f"strategy={strategy}", "resume_step=3")
    plain, sharded = (rows(tmp_path / "outputs" / run / STAGE[panel]) for run in ("plain", "sharded"))
    assert len(plain) == len(sharded)
    assert any(row["grad_norm"] > 0 for row in plain if "grad_norm" in row), "every gradient is zero"
    for one, several in zip(plain, sharded, strict=True):
        assert one.keys() == several.keys()
        # Float32 sums in another order, through four steps.
        assert several == pytest.approx(one, rel=1e-3, abs=1e-5)
    # The newest checkpoint is exported to the same files as those of the finished run.
    folder, _ = export(tmp_path / "outputs" / "sharded")
    same_files(tmp_path / "outputs" / "sharded" / ("policy" if panel == "gspo_rl" else "model"), folder)
    earlier, steps = export(tmp_path / "outputs" / "sharded" / STAGE[panel], tmp_path / "earlier", step=2)
    assert list(steps.values()) == [2]
    [name] = {path.name for path in folder.glob("*.safetensors")} & {
        "model.safetensors",
        "keyframes.safetensors",
        "transformer.safetensors",
    }
    before, after = (load_file(directory / name) for directory in (earlier, folder))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
