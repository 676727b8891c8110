"""Types and values of answers."""

import pytest

from gspo_rl.tasks.answers import ANSWER_TYPES, numbers, parse_answer, readable
from triptych.errors import UserError


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("42", "integer"), ("-1,204", "integer"), ("1e6", "decimal"), (".5", "decimal"), ("3/4", "fraction"), ("\\frac{3}{4}", "fraction"),
        ("3 1/2", "fraction"), ("12%", "percent"), ("10:30", "time"), ("10:30 pm", "time"), ("(3, 4)", "tuple"), ("[1, 2]", "tuple"), ("B", "choice"),
        ("(B)", "choice"), ("Paris", "text"), ("New York", "text"), ("5 km", "integer"), ("5 \\text{ cm}", "integer"), ("2\\pi", "symbolic"),
        ("x^2", "symbolic"), ("2x + 1", "symbolic"), ("x = 3", "symbolic"), ("\\sqrt{3}", "symbolic"), ("July 4", "text"),
    ],
)  # fmt: skip
def test_the_type_is_found(answer: str, kind: str) -> None:
    assert parse_answer(answer).type == kind
    assert kind in ANSWER_TYPES


def test_every_type_can_be_demanded() -> None:
    for answer, kind in (("5", "decimal"), ("5", "fraction"), ("5", "percent"), ("5", "text"), ("5", "symbolic")):
        assert parse_answer(answer, kind).type == kind
    with pytest.raises(UserError, match="not of the type integer"):
        parse_answer("5.5", "integer")


def test_numbers_are_found_in_order() -> None:
    text = readable("1,234,567 a -2.5e-3 .5 none 3.14. 10:30, 2\\pi, v1.2.3, 7th, -$4, 1e999999999")
    found = [(float(number.value) if number.value is not None else number.clock) for number in numbers(text)]
    assert found[:6] == [1234567.0, -0.0025, 0.5, 3.14, (10, 30), None]
    assert found[-3:] == [7.0, -4.0, None]
