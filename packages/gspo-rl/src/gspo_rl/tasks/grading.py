"""Grading of a response against a reference answer."""

import importlib.util
import math
import re
from fractions import Fraction

from gspo_rl.tasks import CORRECT
from gspo_rl.tasks.answers import Answer, Number, marked_part, numbers, parse_answer, readable, tuples
from gspo_rl.tasks.formulas import is_equivalent
from triptych.errors import UserError

_TOLERANCE = 1e-6


def grade(answer: str, response: str, *, answer_type: str = "auto", tolerance: float = _TOLERANCE) -> float:
    r"""The reward of the JSON-lines task: 1 if the response states the answer, else 0.

    What a response states is the content of its last `\boxed{}`, else the line after its last `####`, else its last value of the
    answer's type. Integers, fractions and times are compared exactly, decimal numbers up to a relative tolerance, elements of a
    tuple one by one, formulas by `math-verify`, choices and texts by their last line without case and punctuation.

    Args:
        answer: the reference answer.
        response: text of a finished response; `JsonlTask` gives a response that the token limit cut the reward 0.
        answer_type: one of `ANSWER_TYPES`; `auto` finds it from the answer.
        tolerance: largest difference of a decimal number from the answer, as a fraction of the answer.

    Raises:
        UserError: if the answer is empty, or not of the type.

    Example:
        >>> grade("42", "17 + 25 is 42"), grade("1/2", "3/2"), grade("2000000", "2000001"), grade("B", "I choose (B).")
        (1.0, 0.0, 0.0, 1.0)
    """
    check_tolerance(tolerance)
    reference = parse_answer(answer, answer_type)
    marked = marked_part(response)
    stated = response if marked is None else marked
    if reference.type == "symbolic":
        is_right = _is_same_formula(reference.text, stated, is_marked=marked is not None)
    else:
        is_right = _states(reference, readable(stated), tolerance)
    return CORRECT if is_right else 0.0


def check_tolerance(tolerance: float) -> None:
    """Refuses a tolerance that accepts everything or nothing.

    Raises:
        UserError: if it is negative, not finite, or 1 or more.
    """
    if not (math.isfinite(tolerance) and 0 <= tolerance < 1):
        raise UserError(f"the tolerance is {tolerance}: it must be 0 or more and below 1, as a fraction of the answer")


def check_library(where: str) -> None:
    """Refuses a formula as an answer where the library that compares formulas is missing.

    Args:
        where: place of the answer, for the error message.

    Raises:
        UserError: if it is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(f'{where} has a formula as its answer: install pip install "gspo-rl[math]", or choose another type of answers')


def _states(reference: Answer, text: str, tolerance: float) -> bool:
    if reference.type == "tuple":
        found = tuples(text)
        return bool(found) and _is_same_tuple(reference, *found[-1], tolerance)
    if reference.type == "choice":
        return _choice(text) == reference.text
    if reference.type == "text":
        return _is_same_text(reference.text, text)
    stated = list(numbers(text))
    return bool(stated) and _is_same_number(reference, stated[-1], tolerance)


def _is_same_number(reference: Answer, stated: Number, tolerance: float) -> bool:
    expected = reference.number
    assert expected is not None
    if expected.clock is not None or stated.clock is not None:
        return expected.clock == stated.clock
    if stated.value is None or expected.value is None:
        return False
    exact = reference.type in ("integer", "fraction") and not (reference.type == "fraction" and stated.is_decimal)
    allowed = Fraction(0) if exact else Fraction(tolerance) * abs(expected.value)
    # A percentage may be stated as such, as the number before the sign, and as a fraction of 1; a plain number also with a sign.
    candidates = [stated.value]
    if expected.is_percent and not stated.is_percent:
        candidates.append(100 * stated.value)
    if stated.is_percent and not expected.is_percent:
        candidates.append(stated.value / 100)
    return any(abs(value - expected.value) <= allowed for value in candidates)


def _is_same_tuple(reference: Answer, bracket: str, elements: list[str], tolerance: float) -> bool:
    if bracket != reference.brackets or len(elements) != len(reference.elements):
        return False
    if bracket == "{":
        left = list(elements)
        for expected in reference.elements:
            match = next((element for element in left if _states(expected, element, tolerance)), None)
            if match is None:
                return False
            left.remove(match)
        return True
    return all(_states(expected, element, tolerance) for expected, element in zip(reference.elements, elements, strict=True))


def _choice(text: str) -> str | None:
    """The letter that a text chooses: the last one after "answer is", in brackets, or alone at the start or end of its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    named = re.findall(r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?([A-Z])\b", text) or re.findall(r"\(([A-Z])\)", text)
    if named:
        return str(named[-1])
    edge = re.match(r"([A-Z])(?:[).:]|$)", lines[-1]) or re.search(r"(?:^|\s)([A-Z])[.)]?$", lines[-1])
    return edge.group(1) if edge else None


def _is_same_text(expected: str, text: str) -> bool:
    """Whether the last line of a text is the expected one, or ends with it after "answer is" or a colon."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return False
    last, wanted = _plain(lines[-1]), _plain(expected)
    return last == wanted or re.search(rf"(?:answer is|:)\s*{re.escape(wanted)}$", last) is not None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().strip(" .!?\"'*$")


def _is_same_formula(expected: str, stated: str, *, is_marked: bool) -> bool:
    """Whether a text states an equal formula: what it marks, else its last part in dollar signs, else its last line."""
    if not is_marked:
        formulas = re.findall(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", stated, re.DOTALL)
        lines = [line.strip() for line in stated.splitlines() if line.strip()]
        stated = next((part for part in formulas[-1] if part), "") if formulas else (lines[-1] if lines else "")
    stated = stated.strip().rstrip(".").strip("$ ")
    if not stated:
        return False
    if "".join(stated.split()) == "".join(expected.split()):
        return True
    check_library("this question")
    return is_equivalent(expected, stated)
