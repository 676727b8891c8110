"""Grading of answers by type, through the package's public names."""

import json
import os
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gspo_rl
from triptych.errors import UserError

GIVEN = Path(os.environ.get("TRIPTYCH_CASES", Path(__file__).parents[4] / "shared" / "cases")) / "gspo" / "answers.jsonl"


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [
        # Integers are exact; the last number counts.
        ("42", "The sum of 17 and 25 is 42.", 1), ("42", "42 or 43", 0), ("42", "no idea", 0), ("3000000", "3000001", 0),
        ("3000000", "3,000,000", 1), ("987654321", "987654320", 0), ("100000", "1e5", 1), ("7", "7.0", 1), ("7", "7.0000001", 0),
        ("8", "33-25 = 8", 1), ("25", "17-25", 1), ("-8", "x = -8", 1), ("8", "\u22128", 0), ("-8", "\u22128", 1), ("7200", "7{,}200", 1),
        ("7200", "7\\,200", 1), ("15000", "15\u202f000", 1), ("5", "\\sqrt{5}", 0), ("5", "5\\pi", 0), ("32", "2^5", 0), ("30", "at 10:30", 0),
        ("5", "5 apples", 1), ("5 apples", "5", 1), ("$5", "It costs $5.", 1), ("12", "I count 12,345", 0),
        # Decimal numbers have a relative tolerance.
        ("1204.5", "first 3, then 1,204.5", 1), ("0.1", "0.1000000001", 1), ("0.0000003", "0", 0), ("0.0000003", "3e-7", 1), ("0.25", "1/4", 1),
        ("1500.0", "1.5 \\times 10^{3}", 1),
        # Fractions.
        ("3/4", "0.75", 1), ("3/4", "7/4", 0), ("3/4", "4", 0), ("3/4", "\\dfrac{3}{4}", 1), ("7/4", "1\\frac{3}{4}", 1), ("7/4", "1 3/4", 1),
        ("1/3", "0.3333333", 1), ("1/3", "0.33", 0), ("-\\frac{1}{2}", "-1/2", 1), ("1/2", "½", 1), ("6/8", "3/4", 1),
        # Percentages, times, tuples.
        ("40%", "40 %", 1), ("40%", "40\\%", 1), ("40%", "0.4", 1), ("40%", "40", 1), ("40%", "4%", 0), ("40", "40%", 1),
        ("9:05", "9:05", 1), ("9:05", "5", 0), ("9:05", "09:05", 1), ("9:05 pm", "21:05", 1), ("9:05 pm", "9:05 AM", 0), ("3:2", "2:3", 0),
        ("(1, 2)", "the point (1,2)", 1), ("(1, 2)", "2", 0), ("(1, 2)", "(2, 1)", 0), ("(1/2, 3)", "(0.5, 3)", 1), ("[0, 1]", "(0, 1)", 0),
        ("\\{1, 2\\}", "\\{2,1\\}", 1), ("(1, 2)", "(1, 2, 3)", 0), ("(1, 2)", "\\left(1, 2\\right)", 1),
        # A mark stands before the last value.
        ("42", "#### 42\n\nAsk me 3 more", 1), ("42", "\\boxed{42}, of 6 and 7", 1), ("42", "\\boxed{7} no, \\boxed{42} is it 5", 1),
        ("42", "\\boxed{\\text{none}} 42", 0), ("42", "**42**", 1), ("6*7\n#### 42", "42", 1), ("\\boxed{\\frac{1}{2}}", "1/2", 1),
        ("42", "42\n\\boxed{4", 0),
        # Choices and texts.
        ("C", "(C)", 1), ("C", "The answer is C because A is wrong", 1), ("C", "C. seven", 1), ("C", "So I choose C", 1), ("C", "A or C or B", 0),
        ("A", "A is not it. Answer: C", 0), ("Rome", "Rome.", 1), ("Rome", "I think so:\n **rome**", 1), ("Rome", "The answer is Rome!", 1),
        ("Rome", "Not Rome", 0), ("Rome", "Rome\nor not", 0), ("yes", "Yes.", 1),
    ],
)  # fmt: skip
def test_answers_are_graded_by_type(answer: str, response: str, reward: int) -> None:
    assert gspo_rl.grade(answer, response) == reward


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [
        ("3\\pi", "3\\pi", 1), ("3\\pi", "so it is $\\pi \\cdot 3$.", 1), ("3\\pi", "3", 0), ("x^2+1", "$1+x^2$", 1), ("x^2+1", "$x^2-1$", 0),
        ("\\sqrt{2}", "\\boxed{\\frac{2}{\\sqrt{2}}}", 1), ("2x+1", "1+2x", 1), ("\\sqrt{2}", "no idea", 0), ("3\\pi", "", 0), ("3\\pi", "$\\frac{$", 0),
    ],
)  # fmt: skip
def test_formulas_are_graded_by_their_value(answer: str, response: str, reward: int) -> None:
    pytest.importorskip("math_verify")
    assert gspo_rl.grade(answer, response) == reward


@pytest.mark.skipif(not GIVEN.is_file(), reason=f"no file {GIVEN}")
def test_answers_that_have_failed_before() -> None:
    pytest.importorskip("math_verify")
    rows = [json.loads(line) for line in GIVEN.read_text().splitlines()]
    assert len(rows) >= 30
    assert [row for row in rows if gspo_rl.grade(row["answer"], row["response"]) != row["reward"]] == []


def test_a_formula_is_compared_off_the_main_thread_and_one_that_takes_too_long_is_wrong() -> None:
    pytest.importorskip("math_verify")
    from gspo_rl.tasks.formulas import is_equivalent

    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_equivalent("3\\pi", "\\pi \\cdot 3")))
    thread.start()
    thread.join()
    assert found == [True]
    assert not is_equivalent("\\pi", "9^{9^{9^{9^{9}}}}", seconds=0.5)
    assert is_equivalent("3\\pi", "\\pi \\cdot 3"), "another process has taken over"


def test_no_response_is_run_as_code(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    trap = f"__import__('pathlib').Path('{tmp_path}/run').touch()"
    for response in (trap, f"${trap}$", f"\\boxed{{{trap}}}"):
        assert gspo_rl.grade("3\\pi", response) == 0
    assert not list(tmp_path.iterdir())


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_match_exactly_and_however_they_are_written(one: int, other: int) -> None:
    for text in (f"{other}", f"{other:,}", f"It is {other}.", f"\\boxed{{{other}}}", f"#### {other}\n7", f"{other}.0"):
        assert gspo_rl.grade(str(one), text) == float(one == other)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_fractions_match_by_value(one: Fraction, other: Fraction) -> None:
    answer = f"{one.numerator}/{one.denominator}"
    sign = "-" if other < 0 else ""
    for text in (f"{other.numerator}/{other.denominator}", f"{sign}\\frac{{{abs(other.numerator)}}}{{{other.denominator}}}"):
        assert gspo_rl.grade(answer, text) == float(one == other)


@given(st.text(max_size=40))
def test_any_text_is_graded(text: str) -> None:
    for answer in ("42", "1/2", "9:05", "(1, 2)", "B", "Rome", "40%"):
        assert gspo_rl.grade(answer, text) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        ("", {}, "is empty"), (" $$ ", {}, "is empty"), ("inf", {}, "no finite number"), ("-Infinity", {}, "no finite number"), ("NaN", {}, "no finite number"),
        ("one\ntwo", {}, "which no rule grades"), ("a" * 300, {}, "which no rule grades"), ("Rome", {"answer_type": "integer"}, "not of the type integer"),
        ("1", {"answer_type": "regex"}, "choose one of auto, integer"), ("1", {"tolerance": -0.1}, "tolerance is -0.1"),
        ("1", {"tolerance": float("inf")}, "tolerance is inf"), ("1", {"tolerance": float("nan")}, "tolerance is nan"), ("1/0", {"answer_type": "fraction"}, "not of the type"),
    ],
)  # fmt: skip
def test_what_no_rule_grades_is_refused(answer: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gspo_rl.grade(answer, "1", **options)  # type: ignore[arg-type]


def test_a_type_can_be_chosen() -> None:
    assert gspo_rl.grade("42", "The answer is 42", answer_type="text") == 1
    assert gspo_rl.grade("42", "forty or 42 or so", answer_type="text") == 0
    assert gspo_rl.grade("42", "42.000001", answer_type="decimal") == 1
