"""Commands of the next-scale panel at small size: train, sample, evaluate, and the messages for bad input."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TINY = [
    "data.num_examples=16", "tokenizer.model.base_channels=4", "tokenizer.model.norm_groups=2", "tokenizer.trainer.batch_size=2",
    "transformer.model.depth=1", "transformer.model.width=64", "transformer.model.num_heads=2", "transformer.trainer.batch_size=2",
    "reward.model.vision_width=32", "reward.model.vision_layers=1", "reward.model.text_width=32", "reward.model.text_layers=1",
    "reward.trainer.batch_size=4",
]  # fmt: skip


def steps(count: int) -> list[str]:
    return [f"{stage}.trainer.{key}" for stage in ("tokenizer", "reward", "transformer") for key in (f"max_steps={count}", "log_every=1")]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def model(command: Callable, tmp_path: Path) -> Path:
    outcome = command("train_var", *TINY, *steps(2))
    assert outcome.code == 0, outcome.err
    return tmp_path / "outputs" / "var" / "model"


def test_a_trained_model_samples_images(command: Callable, model: Path, tmp_path: Path) -> None:
    outcome = command("sample_var", f"generator.path={model}", "prompts=[a red circle,two squares]", "seed=3")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs" / "samples"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a red circle", "two squares"]
    for row in rows:
        image = Image.open(folder / row["file"])
        assert image.size == (64, 64)
        assert image.text["prompt"] == row["prompt"]  # type: ignore[attr-defined]
        assert image.text["seed"] == "3"  # type: ignore[attr-defined]
        assert "generated" in image.text["Source"]  # type: ignore[attr-defined]
        assert json.loads(image.text["generator"])["guidance"] == 2.5  # type: ignore[attr-defined]
        assert row["reward"] == row["rewards"][0]
        assert len(row["lineage"]) == 7
        assert [event["kind"] for event in row["events"]] == ["cluster", "cluster", "resample", "resample"]
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert page.count("data:image/png") == 2 * (1 + 8 + 8 + 6 + 6 + 4 + 2 + 1)
    assert "ended-by-cluster" in page
    assert "effective size" in page
    assert not (folder / "search.html").exists()
    first = pixels(folder / rows[0]["file"])
    assert command("sample_var", f"generator.path={model}", "prompts=a red circle", "seed=3", "name=again").code == 0
    # In a batch of one prompt, sums of another shape may change the rounding of the last of eight bits.
    again = pixels(tmp_path / "outputs" / "again" / "pictures" / "0000.png")
    assert np.abs(again - first).max() <= 1


def test_all_final_images_are_written(command: Callable, model: Path, tmp_path: Path) -> None:
    (tmp_path / "some prompts").write_text("\ufeff# two of them\na red circle\n\nring red a\n")
    arguments = [f"generator.path={model}", "search=best_of_n", "search.num_images=3", "page_prompts=1"]
    outcome = command("sample_var", "prompts='some prompts'", *arguments)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs" / "samples"
    first, second = (json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines())
    assert first["others"] == ["pictures/0000_1.png", "pictures/0000_2.png"]
    rewards = [json.loads(Image.open(folder / name).text["reward"]) for name in (first["file"], *first["others"])]  # type: ignore[attr-defined]
    assert sorted(rewards) == pytest.approx(sorted(first["rewards"]))
    assert rewards[0] == max(rewards)
    assert second["verdict"] == {}
    assert "unclear" in second["note"]
    assert "not verified: the prompt &#39;ring red a&#39; has an unclear" in (folder / "report.html").read_text()
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 1
    assert page.count('class="not-chosen"') == 2


def test_images_of_one_prompt_have_seeds_of_their_own(command: Callable, model: Path, tmp_path: Path) -> None:
    arguments = [f"generator.path={model}", "search=single", "page_prompts=0"]
    outcome = command("sample_var", "prompts=[a ring,a square,a ring]", "images_per_prompt=2", *arguments)
    assert outcome.code == 0, outcome.err
    assert "'a ring' is given 2 times and gives equal images: images_per_prompt=2" in outcome.out + outcome.err
    folder = tmp_path / "outputs" / "samples"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a ring"] * 2 + ["a square"] * 2 + ["a ring"] * 2
    assert [row["seed"] for row in rows[:2]] == [row["seed"] for row in rows[2:4]]
    images = [(folder / row["file"]).read_bytes() for row in rows]
    assert rows[0]["seed"] == 0
    assert images[0] != images[1]
    assert "<svg" not in (folder / "report.html").read_text()
    assert command("sample_var", "prompts=a ring", f"seed={rows[1]['seed']}", "name=again", *arguments).code == 0
    again = pixels(tmp_path / "outputs" / "again" / "pictures" / "0000.png")
    assert np.abs(again - pixels(folder / rows[1]["file"])).max() <= 1


def test_two_processes_sample_the_images_of_one(command: Callable, tmp_path: Path) -> None:
    # With the shipped weights: the rewards of a model of a few steps differ in the last bit of a float only. One prompt is sampled
    # at a time, since matrix products of another size differ in that bit too and can flip a sample close to a class boundary.
    prompts = ["a red circle", "two squares", "a green ring"]
    arguments = [f"prompts=[{','.join(prompts)}]", "max_particles=8"]
    assert command("sample_var", "name=one", *arguments).code == 0
    environment = {**os.environ, "TRIPTYCH_CONFIGS": str(ROOT / "configs"), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "triptych.commands.launch", "--standalone", "--nproc-per-node=2", "-m", "tts_var.commands.sample"]
    subprocess.run([*launcher, "name=two", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)
    one, two = (
        [json.loads(line) for line in (tmp_path / "outputs" / name / "samples.jsonl").read_text().splitlines()] for name in ("one", "two")
    )
    assert [row["prompt"] for row in two] == prompts
    for first, second in zip(one, two, strict=True):
        assert first["lineage"] == second["lineage"]
        paths = [tmp_path / "outputs" / name / row["file"] for name, row in (("one", first), ("two", second))]
        assert np.abs(pixels(paths[0]) - pixels(paths[1])).max() <= 1


def test_a_longer_run_resumes_exactly(command: Callable, tmp_path: Path) -> None:
    """A stage that is resumed from step 3 of 4 ends with the weights of an uninterrupted one."""
    only = ["stages=[tokenizer]", *TINY, "checkpoint.every_steps=1", "tokenizer.trainer.log_every=1"]
    assert command("train_var", "name=through", *only, "tokenizer.trainer.max_steps=4").code == 0
    assert command("train_var", "name=twice", *only, "tokenizer.trainer.max_steps=4").code == 0
    checkpoints = tmp_path / "outputs" / "twice" / "tokenizer" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000003", "step_00000004"]
    assert command("train_var", "name=twice", *only, "tokenizer.trainer.max_steps=4", "resume_step=3").code == 0
    through, twice = (load_file(tmp_path / "outputs" / name / "model" / "tokenizer.safetensors") for name in ("through", "twice"))
    assert through.keys() == twice.keys()
    assert all(through[key].equal(twice[key]) for key in through)
    metrics = [(tmp_path / "outputs" / name / "tokenizer" / "metrics.jsonl").read_text() for name in ("through", "twice")]
    assert metrics[0] == metrics[1]


def test_a_finished_training_keeps_its_record(command: Callable, model: Path) -> None:
    records = {path: path.read_bytes() for path in model.parent.rglob("*.json")}
    outcome = command("train_var", *TINY, *steps(2))
    assert outcome.code == 0, outcome.err
    assert records == {path: path.read_bytes() for path in model.parent.rglob("*.json")}


def test_another_tokenizer_needs_another_transformer(command: Callable, model: Path) -> None:
    assert command("train_var", *TINY, *steps(2), "stages=[tokenizer]", "overwrite=true", "seed=1").code == 0
    refused(command("train_var", *TINY, *steps(2), "stages=[transformer]"), "holds a run with tokenizer=", "another name")


def test_evaluation_reports_score_and_cost_of_every_strategy(command: Callable, model: Path, tmp_path: Path) -> None:
    quick = ["evaluation.num_prompts=6", "evaluation.correlation_prompts=2", "evaluation.correlation_particles=3"]
    outcome = command("evaluate_var", f"generator.path={model}", *quick, "only=[single,best_of_2,tts_var]", "evaluation.seeds=[0,1]")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "outputs" / "evaluate-var" / "summary.json").read_text())
    strategies = summary["strategies"]
    assert list(strategies) == ["single", "best_of_2", "tts_var"]
    assert [row["num_samples"] for row in strategies.values()] == [1, 2, 1]
    assert strategies["best_of_2"]["tokens"] == 2 * strategies["single"]["tokens"] == 2 * (1 + 4 + 9 + 16 + 25 + 36 + 64)
    assert all(low <= row["score"] <= high for row in strategies.values() for low, high in [row["interval"]])
    assert summary["reward_rank_correlation"][-1] == pytest.approx(1)
    assert strategies["best_of_2"]["over_single"]["mean"] == pytest.approx(strategies["best_of_2"]["score"] - strategies["single"]["score"])
    assert len(strategies["tts_var"]["effective_sample_sizes"]) == 2
    lines = (tmp_path / "outputs" / "evaluate-var" / "outcomes.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 6 * 2


def test_an_evaluation_resumes_after_the_last_finished_strategy(command: Callable, model: Path, tmp_path: Path) -> None:
    arguments = [
        "evaluate_var", f"generator.path={model}", "only=[single,best_of_2]", "overwrite=false", "evaluation.num_prompts=6",
        "evaluation.correlation_prompts=0",
    ]  # fmt: skip
    assert command(*arguments).code == 0
    folder = tmp_path / "outputs" / "evaluate-var"
    whole = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    shutil.rmtree(folder / "checkpoints" / "step_00000002")
    for name in ("outcomes.jsonl", "summary.json"):
        (folder / name).unlink()
    assert command(*arguments).code == 0
    again = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    assert again[:6] == whole[:6]  # with the seconds of the first run: they were not sampled again
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in whole]
    steps_logged = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps_logged == [1, 2]
    refused(command(*arguments, "evaluation.seeds=[1]"), "holds a run with evaluation.seeds", "overwrite=true")


def refused(outcome: object, *parts: str) -> None:
    code, err = outcome.code, outcome.err  # type: ignore[attr-defined]
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert all(part in err for part in parts), err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["prompts=a pink circle"], ["pink", "vocabulary", "circle"]),
        (["prompts=[]"], ["no prompt"]),
        (["prompts=empty.txt"], ["no prompt"]),
        (["prompts=absent.txt"], ["absent.txt", "cannot be read"]),
        (["search.potential=best"], ["search.potential is 'best'", "value"]),
        (["search.scheme=best"], ["search.scheme is 'best'", "systematic"]),
        (["search.batch_schedule=[8,8]"], ["search.num_scales is 13", "null"]),
        (["search.num_scales=null", "search.batch_schedule=[8,8]"], ["7 scales"]),
        (["search.num_scales=null", "search.batch_schedule=[8,8,8,8,8,8,4]", "search.events=[]"], ["without an event"]),
        (["search.num_scales=null", "search.batch_schedule=[8]", "search.events=[{scale: 7, kind: resample}]"], ["scale 7", "0 to 6"]),
        (["search.events=[{scale: 13, kind: resample}]"], ["scale 13", "0 to 12"]),
        (["search.batch_schedule=[8]", "search.events=[{scale: 2, kind: kill}]"], ["kind 'kill'", "cluster"]),
        (["search.num_images=1000", "memory_gib=0.01"], ["MiB", "lower search.num_images"]),
        (["generator.temperature=0"], ["temperature is 0"]),
        (["generator.temperature=abc"], ["temperature is abc"]),
        (["max_particles=0"], ["max_particles is 0"]),
        (["memory_gib=-1"], ["memory_gib is -1"]),
        (["page_prompts=-1"], ["page_prompts is -1"]),
        (["images_per_prompt=0"], ["images_per_prompt is 0"]),
    ],
)
def test_bad_input_is_refused_in_one_line(command: Callable, model: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    refused(command("sample_var", f"generator.path={model}", "name=bad", *arguments), *parts)
    assert not (tmp_path / "outputs" / "bad").exists()


def test_incompatible_weights_are_refused_in_one_line(command: Callable, model: Path, tmp_path: Path) -> None:
    refused(command("sample_var", "generator.path=nowhere"), "nowhere holds no model", "make train-var")
    sizes = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**sizes, "transformer": {**sizes["transformer"], "width": 128}}))
    refused(command("sample_var", f"generator.path={model}"), "does not fit", "has shape")
    (model / "config.json").write_text(json.dumps(sizes))
    (model / "config.json").write_text(json.dumps({**sizes, "reward": {"depth": 3}}))
    refused(command("sample_var", f"generator.path={model}"), "reward the size 'depth'")
    (model / "config.json").write_text("[1]")
    refused(command("sample_var", f"generator.path={model}"), "not a table of the model's parts")
    (model / "config.json").write_text(json.dumps(sizes))
    weights = model / "transformer.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(command("sample_var", f"generator.path={model}"), "transformer.safetensors", "copy or download it again")
    weights.unlink()
    refused(command("sample_var", f"generator.path={model}"), "there are no weights at")
    assert not (tmp_path / "outputs" / "samples").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["stages=[decoder]"], ["stages is", "tokenizer, reward, transformer"]),
        (["stages=[transformer]", "name=fresh"], ["holds no model"]),
        (["transformer.loss.weighting=none"], ["loss.weighting"]),
        (["tokenizer.model.base_channels=5"], ["groups"]),
        (["sides=[]"], ["sides is []", "at least two scales"]),
        (["sides=[1,2,4]"], ["sides is [1, 2, 4]", "64 pixels"]),
        (["sides=[8]"], ["at least two scales"]),
        (["transformer.loss.flip_strength=0.9"], ["flip_strength is 0.9"]),
        (["transformer.model.num_heads=3"], ["width is 64 with num_heads 3"]),
        (["transformer.model.unconditional_tokens=4"], ["unconditional_tokens is 4"]),
        (["tokenizer.loss.prefix_fraction=2"], ["prefix_fraction is 2"]),
        (["reward.loss.first_prefix=9"], ["first_prefix is 9"]),
    ],
)
def test_bad_training_settings_are_refused_in_one_line(command: Callable, arguments: list[str], parts: list[str]) -> None:
    refused(command("train_var", *TINY, *steps(1), *arguments), *parts)
