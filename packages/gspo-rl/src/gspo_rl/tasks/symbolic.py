"""The process that `gspo_rl.tasks.formulas` asks: compares pairs of LaTeX formulas by `math-verify`.

Of the library's readers only the LaTeX grammar is used: the one for plain expressions evaluates them as Python code.
"""

import json
import sys
from typing import IO

import math_verify


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answers one JSON line for each pair of formulas; ends with its input."""
    latex = [math_verify.LatexExtractionConfig()]
    for line in questions:
        pair = json.loads(line)
        try:
            gold, stated = (math_verify.parse(f"${text}$", latex, parsing_timeout=None) for text in pair or ("1", "1"))
            is_equal = bool(gold) and bool(stated) and math_verify.verify(gold, stated, timeout_seconds=None)
        except Exception:  # a formula that cannot be read equals none
            is_equal = False
        answers.write(json.dumps(bool(is_equal)) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
