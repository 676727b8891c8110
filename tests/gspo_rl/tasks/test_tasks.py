"""The tasks: prompts, splits, grading and demonstrations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import DemonstratingTask
from gspo_rl.tasks.jsonl import JsonlTask, last_number
from gspo_rl.toy.arithmetic import ArithmeticTask
from triptych.errors import UserError
from triptych.seeding import generator

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (one of its libraries needs a C compiler)")
from gspo_rl.tasks.reasoning_gym import ReasoningGymTask


def said(text: str, *, finished: bool = True) -> Completion:
    return Completion((1,), (1,), (0.0,), text, finished)


def test_every_task_can_demonstrate() -> None:
    assert isinstance(ArithmeticTask(), DemonstratingTask)


def test_sums_are_sums_and_the_splits_share_no_pair() -> None:
    task = ArithmeticTask(num_prompts=3000, num_held_out=400)
    pairs: dict[str, set[tuple[int, ...]]] = {}
    for split in ("train", "held_out"):
        pairs[split] = set()
        for prompt in task.prompts(split):
            numbers = [int(text) for text in prompt.text.removesuffix("=").split("+")]
            assert sum(numbers) == int(prompt.answer)
            assert all(100 <= number <= 9999 for number in numbers)
            pairs[split].add(tuple(sorted(numbers)))
    assert not pairs["train"] & pairs["held_out"]
    assert len(pairs["train"]) > 2900


def test_a_prompt_depends_on_seed_and_index_alone() -> None:
    task = ArithmeticTask()
    backwards = [task.prompts("train")[index] for index in reversed(range(5))]
    assert backwards[::-1] == task.prompts("train")[:5]
    assert task.prompts("train")[0] == ArithmeticTask(num_prompts=7).prompts("train")[0]
    assert task.prompts("train")[0] != ArithmeticTask(seed=1).prompts("train")[0]


@given(index=st.integers(0, 999), draw=st.integers(0, 10**6))
def test_a_careful_demonstration_earns_the_reward_and_writes_true_columns(index: int, draw: int) -> None:
    task = ArithmeticTask(careless=0.0, slip=0.0)
    prompt = task.prompts("held_out")[index]
    text = task.demonstrate(prompt, generator(draw))
    assert task.reward(prompt, said(text)) == 1.0
    for column in text.partition(" #")[0].split(" "):
        left, right = column.split("=")
        assert sum(int(digit) for digit in left.split("+")) == int(right)


def test_a_careless_demonstration_forgets_its_carries() -> None:
    task = ArithmeticTask(careless=1.0, slip=0.0)
    # 9 + 8 = 17, 4 + 7 + 0 = 11, 0 + 1 + 0 = 1: without carries the digits are 7, 1, 1.
    prompt = Prompt("49+178=", "227")
    assert task.demonstrate(prompt, generator(0)) == "9+8+0=17 4+7+0=11 0+1+0=01 #117"
    assert task.reward(prompt, said("9+8+0=17 4+7+0=11 0+1+0=01 #117")) == 0.0


def test_the_share_of_right_demonstrations_is_imperfect_on_purpose() -> None:
    task = ArithmeticTask()
    prompts = task.prompts("train")[:1000]
    right = sum(task.reward(prompt, said(task.demonstrate(prompt, generator(place)))) for place, prompt in enumerate(prompts))
    assert 450 < right < 650  # (1 - careless) * (1 - slip)^4, and the sums without a carry


@pytest.mark.parametrize(
    ("text", "finished", "reward"),
    [("#227", True, 1.0), ("no #1 #227", True, 1.0), ("#227", False, 0.0), ("227", True, 0.0), ("#0227", True, 0.0), ("#227 ", True, 0.0), ("#", True, 0.0)],
)  # fmt: skip
def test_only_a_finished_and_exact_sum_counts(text: str, finished: bool, reward: float) -> None:
    assert ArithmeticTask().reward(Prompt("49+178=", "227"), said(text, finished=finished)) == reward


@pytest.mark.parametrize("wrong", [{"num_prompts": 0}, {"num_held_out": 0}, {"min_digits": 4, "max_digits": 3}, {"careless": 1.5}])
def test_arithmetic_without_meaning_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"task.{next(iter(wrong))}"):
        ArithmeticTask(**wrong)


@pytest.mark.parametrize("family", ["chain_sum", "basic_arithmetic", "letter_counting", "spell_backward", "number_sorting"])
def test_the_library_grades_its_own_answers_as_right(family: str) -> None:
    task = ReasoningGymTask(family, num_prompts=50, num_held_out=20, wrong=0.0)
    for split in ("train", "held_out"):
        for prompt in task.prompts(split)[:10]:
            assert task.reward(prompt, said(prompt.answer)) == 1.0
            assert task.reward(prompt, said(f"<answer>{prompt.answer}</answer>")) == 1.0
            assert task.reward(prompt, said("certainly not this")) < 1.0
            assert task.reward(prompt, said(prompt.answer, finished=False)) == 0.0
            assert task.reward(prompt, said(task.demonstrate(prompt, generator(0)))) == 1.0


def test_held_out_questions_never_appear_in_training() -> None:
    options = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}  # 10 * 10 * 2 questions
    task = ReasoningGymTask("chain_sum", options=options, num_prompts=300, num_held_out=30)
    assert not {prompt.text for prompt in task.prompts("train")} & {prompt.text for prompt in task.prompts("held_out")}


def test_demonstrations_of_a_family_are_wrong_as_often_as_asked() -> None:
    task = ReasoningGymTask("chain_sum", num_prompts=10, num_held_out=500, wrong=0.3)
    prompt = task.prompts("train")[0]
    right = sum(task.reward(prompt, said(task.demonstrate(prompt, generator(draw)))) == 1.0 for draw in range(1000))
    assert 650 < right < 750  # 700 with a standard deviation of 15


def test_a_chain_is_worked_from_left_to_right() -> None:
    prompt = Prompt("", "-4", {"metadata": {"expression": "4 - 1 - 7"}})
    assert ReasoningGymTask("chain_sum", num_held_out=1, wrong=0.0).demonstrate(prompt, generator(0)) == "4-1=3 3-7=-4 <answer>-4</answer>"
    wrong = ReasoningGymTask("chain_sum", num_held_out=1, wrong=1.0)
    seen = {wrong.demonstrate(prompt, generator(draw)) for draw in range(50)}
    assert seen == {f"4-1={a} {a}-7={b} <answer>{b}</answer>" for a, b in ((2, -5), (4, -3), (3, -5), (3, -3))}


def test_a_family_that_does_not_exist_and_an_option_it_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="no family of reasoning-gym: choose one of .*chain_sum"):
        ReasoningGymTask("chain_summ")
    with pytest.raises(UserError, match="task.options.chain_sum"):
        ReasoningGymTask("chain_sum", options={"chain_sum": {"terms": 3}})


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
    assert task.reward(Prompt("", answer), said(response)) == reward
    assert task.reward(Prompt("", answer), said(response, finished=False)) == 0.0


def test_strings_match_by_their_last_line(tmp_path: Path) -> None:
    task = JsonlTask(str(write(tmp_path / "a.jsonl", ROWS)), match="string")
    assert task.reward(Prompt("", "New York"), said("I think:\n  new   york \n")) == 1.0
    assert task.reward(Prompt("", "New York"), said("new york\nor not")) == 0.0


def test_last_number_reads_what_people_write() -> None:
    assert [last_number(text) for text in ("1,234,567", "a -2.5e-3", ".5", "none", "3.14.")] == [1234567.0, -2.5e-3, 0.5, None, 3.14]


@pytest.mark.parametrize(
    ("broken", "message"),
    [('{"question": "x", ', "line 37 is no JSON object"), ({"question": "x"}, "line 37 lacks"), ({"question": "x", "answer": "none"}, "line 37 has the answer"),
     ([1], "line 37 lacks")],
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, broken: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS[:36], broken, *ROWS[36:]])
    with pytest.raises(UserError, match=message) as caught:
        JsonlTask(str(path))
    assert "\n" not in str(caught.value)


def test_line_separators_inside_a_string_do_not_break_a_line(tmp_path: Path) -> None:
    rows = [*ROWS[:30], json.dumps({"question": "one\u2028two\x85three", "answer": "1"}, ensure_ascii=False), *ROWS[30:]]
    task = JsonlTask(str(write(tmp_path / "a.jsonl", rows)))
    assert sum(len(task.prompts(split)) for split in ("train", "held_out")) == 61


def test_a_file_that_is_missing_or_empty_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        JsonlTask(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no question for the train split"):
        JsonlTask(str(write(tmp_path / "empty.jsonl", [])))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        JsonlTask(str(tmp_path / "binary"))
