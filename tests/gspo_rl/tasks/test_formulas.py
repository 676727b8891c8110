"""Formulas: compared by value in a process that can be stopped."""

import pytest

pytest.importorskip("math_verify")

from gspo_rl.tasks.formulas import is_equivalent


@pytest.mark.parametrize(
    ("expected", "stated", "same"),
    [("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", True), ("(x+1)^2", "x^2+2x+1", True), ("(x+1)^2", "x^2+1", False), ("\\pi", "", False),
     ("1" * 500, "1" * 500, False)],
)  # fmt: skip
def test_formulas_are_compared_by_value(expected: str, stated: str, same: bool) -> None:
    assert is_equivalent(expected, stated) is same
