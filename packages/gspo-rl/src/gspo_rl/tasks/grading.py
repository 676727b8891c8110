"""Grading of a response against a reference answer."""

import re

from gspo_rl.tasks import CORRECT
from triptych.errors import UserError

MATCHES = ("numeric", "string")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


def grade(answer: str, response: str, *, match: str = "numeric", tolerance: float = 1e-6) -> float:
    r"""The reward of the JSON-lines task: 1 if the response states the answer, else 0.

    Args:
        answer: the reference answer.
        response: text of a finished response; `JsonlTask` gives a response that the token limit cut the reward 0.
        match: `numeric` compares the last number of the response with that of the answer; `string` compares the
            response's last non-empty line with the answer, ignoring white space and case.
        tolerance: largest difference at which two numbers still match, relative to the answer.

    Raises:
        UserError: if `match` is unknown, or an answer holds no number where one is needed.

    Example:
        >>> grade("42", "17 + 25 is 42"), grade("42", "41"), grade("yes", "I think so.\nYes", match="string")
        (1.0, 0.0, 1.0)
    """
    if match == "string":
        lines = [line for line in response.splitlines() if line.strip()]
        return CORRECT if lines and _plain(lines[-1]) == _plain(answer) else 0.0
    if match != "numeric":
        raise UserError(f"match is '{match}': choose one of {', '.join(MATCHES)}")
    expected, stated = last_number(answer), last_number(response)
    if expected is None:
        raise UserError(f"the answer {answer[:40]!r} holds no number: give one, or use match=string")
    close = stated is not None and abs(stated - expected) <= tolerance * max(1.0, abs(expected))
    return CORRECT if close else 0.0


def last_number(text: str) -> float | None:
    """The last number in a text, with thousands separators and exponents; None if there is none.

    Example:
        >>> last_number("first 3, then 1,204.5"), last_number("none")
        (1204.5, None)
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
