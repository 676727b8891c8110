"""Runs of real commands whose inputs, folders and configs change between two invocations."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Command = Callable[..., object]


def questions(path: Path, offset: int = 0, count: int = 50) -> None:
    path.write_text("".join(json.dumps({"question": f"{n}+{offset}=", "answer": str(n + offset)}) + "\n" for n in range(count)))


def test_changed_questions_are_refused_until_they_are_named(command: Command, tmp_path: Path) -> None:
    questions(tmp_path / "data.jsonl")
    arguments = ["task=jsonl", "task.path=data.jsonl", "checkpoint.every_steps=1"]
    first = command("train_gspo", *arguments)
    assert first.code == 0, first.err
    for change in (lambda: questions(tmp_path / "data.jsonl", offset=1), lambda: questions(tmp_path / "data.jsonl", count=25)):
        change()
        outcome = command("train_gspo", *arguments, "trainer.max_steps=3")
        assert outcome.code == 2
        assert outcome.err.startswith("error: outputs/gspo holds a run that has read another content of task.path: ")
        assert len(outcome.err.splitlines()) == 1
    # The query set is renewed and the responses get longer in the middle of a training, as in section 5.1 of the paper.
    longer = [*arguments, "trainer.max_steps=4", "sampling.max_tokens=56", "changed=[task.path,sampling.max_tokens]"]
    outcome = command("train_gspo", *longer)
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "outputs" / "gspo" / "changes.jsonl").read_text().splitlines()]
    assert [(row["step"], row["key"]) for row in rows] == [(2, "sampling.max_tokens"), (2, "task.path")]
    steps = [json.loads(line)["step"] for line in (tmp_path / "outputs" / "gspo" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]
    assert "(of other prompts)" in outcome.out
    assert json.loads((tmp_path / "outputs" / "gspo" / "summary.json").read_text())["accuracy_gain"] is None
    # The same questions elsewhere are the same run.
    (tmp_path / "data.jsonl").rename(tmp_path / "moved.jsonl")
    moved = [item.replace("data.jsonl", "moved.jsonl") for item in longer]
    assert command("train_gspo", *moved, "trainer.max_steps=5").code == 0


def test_an_exchanged_policy_folder_is_refused(command: Command, tmp_path: Path) -> None:
    assert command("train_gspo").code == 0
    policy = tmp_path / "outputs" / "gspo" / "policy"
    arguments = ["name=second", "policy=saved", f"policy.path={policy}", "cold_start.steps=0", "checkpoint.every_steps=1"]
    quick = [
        "trainer.max_steps=1",
        "trainer.prompts_per_step=4",
        "trainer.group_size=4",
        "evaluation.num_prompts=8",
        "evaluation.num_samples=2",
    ]
    outcome = command("train_gspo", *arguments, *quick, quick=False)
    assert outcome.code == 0, outcome.err
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    outcome = command("train_gspo", *arguments, *quick, "trainer.max_steps=2", quick=False)
    assert outcome.code == 2
    assert "has read another content of policy.path" in outcome.err


def test_an_edited_storyboard_survives_the_next_film(command: Command, tmp_path: Path) -> None:
    """The documented way: edit the storyboard of a film, and generate the film again under the same name."""
    small = ['storyline="ada meets bo in the kitchen"', "scale=1", "title_seconds=0", "sampling.num_steps=1"]
    assert command("generate_cinema", *small).code == 0
    film = tmp_path / "outputs" / "film"
    board = json.loads((film / "storyboard.json").read_text())
    edited = json.dumps({**board, "title": "Edited by hand"})
    (film / "storyboard.json").write_text(edited)
    (film / "notes.txt").write_text("mine")
    outcome = command("generate_cinema", *small)
    assert outcome.code == 0, outcome.err
    assert (film / "storyboard.kept.json").read_text() == edited
    assert json.loads((film / "storyboard.json").read_text()) == board
    assert (film / "notes.txt").read_text() == "mine"
    assert "kept aside         storyboard.kept.json" in outcome.out
    assert command("generate_cinema", *small[1:], "storyline=null", "storyboard=outputs/film/storyboard.kept.json").code == 0
    assert json.loads((film / "storyboard.json").read_text())["title"] == "Edited by hand"


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_code_from_outside_is_refused_before_it_is_imported(command: Command, tmp_path: Path, sweep: list[str]) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    for target in ("evil.Task", "urllib.request.urlopen", "gspo_rl.commands.train.shlex.quote"):
        outcome = command("train_gspo", "allowed_targets=[mylab]", f"task._target_={target}", *sweep)
        assert outcome.code == 2
        assert f"_target_ {target}" in outcome.err
        assert "is not allowed: allowed_targets has mylab" in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_code_from_outside_is_logged_and_recorded(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylab.py").write_text("from gspo_rl.toy.arithmetic import ArithmeticTask\n\n\nclass Task(ArithmeticTask):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command("train_gspo", "task._target_=mylab.Task", "allowed_targets=[mylab]")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("code from outside  mylab.Task") == 1
    provenance = json.loads((tmp_path / "outputs" / "gspo" / "provenance.json").read_text())
    assert provenance["outside_targets"] == ["mylab.Task"]
    assert provenance["versions"]["triptych-core"]


def test_the_value_of_an_environment_variable_is_written_nowhere(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions(tmp_path / "sk-12345.jsonl")
    monkeypatch.setenv("SECRET_DATA", "sk-12345.jsonl")
    outcome = command("train_gspo", "task=jsonl", "task.path=${oc.env:SECRET_DATA}")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load((tmp_path / "outputs" / "gspo" / "config.yaml").read_text())["task"]["path"] == "${oc.env:SECRET_DATA}"
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file() and path.name != "digests.json"]
    assert [path for path in files if b"sk-12345" in path.read_bytes()] == []
