"""The process that compares formulas: one answer for each line, whatever stands there."""

import io
import json

import pytest

pytest.importorskip("math_verify")

from gspo_rl.tasks.symbolic import serve


def test_every_question_has_one_answer() -> None:
    pairs = [["2\\pi", "\\pi 2"], ["2\\pi", "2"], [], ["1", "\\frac{"], ["1", "__import__('os').getcwd()"]]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(pair) + "\n" for pair in pairs)), answers)
    assert answers.getvalue().split() == ["true", "false", "true", "false", "false"]
