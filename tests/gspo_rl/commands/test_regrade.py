"""`triptych regrade`: the stored completions of a run, graded by its task as it is now."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gspo_rl.commands.regrade import _prompt, _regrade
from gspo_rl.data.batch import Completion
from gspo_rl.records import completion_row, read_records
from gspo_rl.tasks.jsonl import JsonlTask
from triptych.errors import UserError


def regrade(run: Path) -> list[str]:
    return _regrade(argparse.Namespace(run=run)).splitlines()


def test_a_corrected_answer_changes_the_rewards_of_its_completions(run_command: Callable[..., int], tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    rows = [{"question": f"{n}+{n}=", "answer": str(2 * n)} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "task=jsonl", f"task.path={data}", "task.answer_type=text", "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32",
        "cold_start.steps=0", "trainer.max_steps=2", "trainer.prompts_per_step=4", "trainer.group_size=2", "evaluation.num_prompts=2",
        "evaluation.num_samples=2", "sampling.max_tokens=4", "device=cpu", "name=t",
    ]  # fmt: skip
    assert run_command("train", *arguments) == 0
    run = tmp_path / "outputs" / "t"
    records = list(read_records(run))
    assert [(record.kind, record.step, len(record.rows)) for record in records] == [
        ("evaluation", 0, 6), ("step", 1, 8), ("evaluation", 2, 6), ("step", 2, 8),
    ]  # fmt: skip
    assert [row["weight_version"] for row in records[3].rows] == [4] * 8
    assert regrade(run)[-1] == "0 rewards differ"
    row = next(row for row in records[1].rows if row["finished"] is False)
    corrected = {**rows[0], "question": row["prompt"], "answer": row["text"].strip() or "x"}
    data.write_text("".join(json.dumps(corrected if other["question"] == row["prompt"] else other) + "\n" for other in rows))
    assert regrade(run)[-1] == "0 rewards differ", "a response that was cut has no reward"
    data.write_text(json.dumps({"question": "another=", "answer": "1"}) + "\n" + data.read_text())
    with pytest.raises(UserError, match="is another one than in the run: restore the task's data"):
        regrade(run)


def test_a_conversation_is_not_graded_by_the_answer_of_another(tmp_path: Path) -> None:
    last = {"role": "user", "content": "Answer with the number only."}
    rows = [{"messages": [{"role": "user", "content": f"{n} + {n}"}, last], "answer": str(2 * n)} for n in range(40)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = JsonlTask(str(tmp_path / "q.jsonl"))
    first, second = task.prompts("train")[:2]
    completion = Completion((), torch.zeros(1, dtype=torch.long), torch.zeros(1), first.answer, True)
    row = completion_row("train", 0, first, completion, {"task": 1.0})
    assert _prompt(row, task) == first
    assert second.text == first.text
    with pytest.raises(UserError, match="prompt 1 of the train split is another one than in the run"):
        _prompt({**row, "index": 1}, task)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the folder of a run"):
        regrade(tmp_path)
    (tmp_path / "config.yaml").write_text("name: a\n")
    with pytest.raises(UserError, match="names no task"):
        regrade(tmp_path)
