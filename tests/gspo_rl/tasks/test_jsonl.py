"""The JSON-lines task: splits, matching, and errors with the line number."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks.jsonl import JsonlTask
from triptych.errors import UserError


def completion(text: str, *, finished: bool = True) -> Completion:
    return Completion((1,), torch.tensor([1]), torch.zeros(1), text, finished)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)]


def test_a_file_of_questions_is_split_by_question_and_not_by_order(tmp_path: Path) -> None:
    task = JsonlTask(str(write(tmp_path / "a.jsonl", ROWS)))
    train, held_out = ({prompt.text for prompt in task.prompts(split)} for split in ("train", "held_out"))
    assert not train & held_out
    assert len(train | held_out) == 60
    more = JsonlTask(str(write(tmp_path / "b.jsonl", [{"question": "new", "answer": "1"}, *ROWS[::-1]])))
    assert {prompt.text for prompt in more.prompts("held_out")} - {"new"} == held_out


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [("18", "so it is 18", 1.0), ("18", "18 or 19", 0.0), ("1,204.50", "about 1204.5.", 1.0), ("18", "eighteen", 0.0), ("#### 18", "\\boxed{18}", 1.0),
     ("-3", "x = -3", 1.0), ("1e3", "1000", 1.0)],
)  # fmt: skip
def test_numbers_match_by_value(tmp_path: Path, answer: str, response: str, reward: float) -> None:
    task = JsonlTask(str(write(tmp_path / "a.jsonl", ROWS)))
    assert task.reward(Prompt("", answer), completion(response)) == reward
    assert task.reward(Prompt("", answer), completion(response, finished=False)) == 0.0


def test_an_answer_type_holds_for_all_lines(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    task = JsonlTask(path, answer_type="text")
    assert task.reward(Prompt("", "New York"), completion("I think:\n  new   york \n")) == 1.0
    assert task.reward(Prompt("", "New York"), completion("new york\nor not")) == 0.0
    with pytest.raises(UserError, match=r"task\.answer_type is 'numeric': choose one of auto, "):
        JsonlTask(path, answer_type="numeric")
    with pytest.raises(UserError, match="tolerance is -1"):
        JsonlTask(path, tolerance=-1.0)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert sum(len(JsonlTask(str(path)).prompts(split)) for split in ("train", "held_out")) == 60


def test_a_question_in_both_files_is_refused(tmp_path: Path) -> None:
    train, held_out = write(tmp_path / "a.jsonl", ROWS[:40]), write(tmp_path / "b.jsonl", ROWS[40:])
    assert len(JsonlTask(str(train), held_out_path=str(held_out)).prompts("held_out")) == 20
    with pytest.raises(UserError, match=r"the question 'What is 39 \+ 39\?' stands in .*a\.jsonl and in .*b\.jsonl"):
        JsonlTask(str(train), held_out_path=str(write(tmp_path / "b.jsonl", ROWS[39:])))


def test_conversations_with_one_last_message_are_different_questions(tmp_path: Path) -> None:
    def talk(numbers: range) -> list[dict[str, Any]]:
        last = {"role": "user", "content": "Answer with the number only."}
        return [{"messages": [{"role": "user", "content": f"{n} + {n}"}, last], "answer": str(2 * n)} for n in numbers]

    train = write(tmp_path / "train.jsonl", talk(range(40)))
    task = JsonlTask(str(train), held_out_path=str(write(tmp_path / "a.jsonl", talk(range(40, 60)))))
    assert len(task.prompts("held_out")) == 20
    with pytest.raises(UserError, match="stands in"):
        JsonlTask(str(train), held_out_path=str(write(tmp_path / "b.jsonl", talk(range(39, 60)))))
    alone = JsonlTask(str(train))
    assert 0 < len(alone.prompts("held_out")) < 40, "each is put into a split by itself"


def test_a_formula_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"question": "x", "answer": "2\\pi"}])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'line 61 has a formula as its answer: install pip install "gspo-rl\[math\]"'):
        JsonlTask(str(path))


@pytest.mark.parametrize(
    ("broken", "message"),
    [('{"question": "x", ', "line 37 is not JSON"), ({"question": "x"}, "line 37 lacks"), ({"question": "x", "answer": " "}, "line 37: the answer ' ' is empty"), ({"question": "x", "answer": float("inf")}, "line 37: the answer 'inf' is no finite number"),
     ({"question": "x", "answer": True}, "line 37 lacks"),
     ([1], "line 37 lacks")],
)  # fmt: skip
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, broken: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS[:36], broken, *ROWS[36:]])
    with pytest.raises(UserError, match=message) as caught:
        JsonlTask(str(path))
    assert "\n" not in str(caught.value)


def test_line_separators_inside_a_string_do_not_break_a_line(tmp_path: Path) -> None:
    rows = [*ROWS[:30], json.dumps({"question": "one\u2028two\x85three", "answer": "1"}, ensure_ascii=False), *ROWS[30:]]
    task = JsonlTask(str(write(tmp_path / "a.jsonl", rows)))
    assert sum(len(task.prompts(split)) for split in ("train", "held_out")) == 61


def test_a_file_that_is_missing_or_empty_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        JsonlTask(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no question for the train split"):
        JsonlTask(str(write(tmp_path / "empty.jsonl", [])))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        JsonlTask(str(tmp_path / "binary"))


def test_conversations_are_prompts_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3?"}]
    rows = [*ROWS, {"messages": talk, "answer": "4"}]
    task = JsonlTask(str(write(tmp_path / "a.jsonl", rows)))
    (prompt,) = [prompt for split in ("train", "held_out") for prompt in task.prompts(split) if prompt.messages]
    assert (prompt.text, prompt.answer, list(prompt.messages)) == ("3?", "4", talk)
    for broken in ([], [1], [{"role": "user"}], "text"):
        with pytest.raises(UserError, match="line 61 lacks"):
            JsonlTask(str(write(tmp_path / "b.jsonl", [*ROWS, {"messages": broken, "answer": "4"}])))
