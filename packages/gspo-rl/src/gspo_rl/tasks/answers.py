"""Answers by type: what a reference answer is, and which values a text states."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from triptych.errors import UserError

ANSWER_TYPES = ("auto", "integer", "decimal", "fraction", "percent", "time", "tuple", "symbolic", "choice", "text")

_LONGEST_TEXT = 200  # characters; a longer reference is an explanation, which no response repeats

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d{1,3}(?: \d{3})+(?![\d/])|\d+)"
# A sign counts where no operand stands before it: 17-25 ends in 25, and (-25) in -25.
_SIGN = r"(?:(?<![\w.)\]])[-+]\$?)?"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})(?<![\w.^√])(?:"
    rf"(?P<clock>\d+(?::\d\d)+|\d+:\d+)(?:\s*(?P<half>[aApP])\.?[mM]\b\.?)?"
    rf"|(?:(?P<whole>\d+) )?(?P<above>{_DIGITS})\s*/\s*(?P<below>{_DIGITS})(?![\d/])"
    rf"|(?P<number>{_DIGITS}?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d+)?)"
    rf")(?P<percent>\s*%)?(?P<factor>\s*(?:[π√^]|\\[a-zA-Z]))?"
)
_GROUP = re.compile(r"[(\[{]([^()\[\]{}]*,[^()\[\]{}]*)[)\]}]")
_UNIT = r"(?:\s*(?:[a-zA-Z°€£$]+(?:\s*[²³]|\^[23])?\.?)){0,3}"
_WORDS = re.compile(r"[a-zA-Z]{2,}")
_FUNCTIONS = {"sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "frac", "cdot", "times", "infty", "pm"}


class Number(NamedTuple):
    r"""A number in a text.

    Attributes:
        value: exact; None for one that is multiplied by something else, such as `2\pi`.
        is_percent: whether a percent sign follows; `value` is before the division by 100.
        is_decimal: whether it was written with a decimal point or an exponent.
        clock: hours, minutes and seconds of a time or a ratio; None for a plain number.
    """

    value: Fraction | None
    is_percent: bool = False
    is_decimal: bool = False
    clock: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """A reference answer.

    Attributes:
        type: one of `ANSWER_TYPES` but `auto`.
        text: what it states, without markup.
        number: of a numeric answer or a time.
        elements: of a tuple.
        brackets: opening bracket of a tuple; the elements of a set in braces have no order.
    """

    type: str
    text: str
    number: Number | None = None
    elements: tuple["Answer", ...] = ()
    brackets: str = ""


@lru_cache(maxsize=2**16)
def parse_answer(answer: str, answer_type: str = "auto") -> Answer:
    r"""The type and value of a reference answer.

    A rationale before `####`, a `\boxed{}` around the answer, and a unit after a number are left out.

    Args:
        answer: the reference answer.
        answer_type: one of `ANSWER_TYPES`; `auto` finds it.

    Raises:
        UserError: if no rule grades such an answer.

    Example:
        >>> [parse_answer(text).type for text in ("42", "1/2", "25%", "10:30", "(3, 4)", "B", "Paris")]
        ['integer', 'fraction', 'percent', 'time', 'tuple', 'choice', 'text']
    """
    if answer_type not in ANSWER_TYPES:
        raise UserError(f"the type of answers is '{answer_type}': choose one of {', '.join(ANSWER_TYPES)}")
    stated = marked_part(answer)
    text = readable(answer if stated is None else stated).strip().rstrip(".").strip("$ ")
    if not text:
        raise UserError(f"the answer {answer[:40]!r} is empty: give one")
    if re.fullmatch(r"[-+]?(?:inf|infinity|nan)", text, re.IGNORECASE):
        raise UserError(f"the answer {answer[:40]!r} is no finite number: give one")
    found = Answer(answer_type, text) if answer_type in ("text", "symbolic") else _typed(text)
    if answer_type == "auto":
        if found is None and len(text) <= _LONGEST_TEXT and "\n" not in text:
            found = Answer("symbolic" if _is_symbolic(answer if stated is None else stated, text) else "text", text)
        if found is None:
            raise UserError(
                f"the answer {answer[:40]!r} has {len(text)} characters in {len(text.splitlines())} lines, which no rule grades: "
                r"put the result after #### or into \boxed{}"
            )
    elif found is None or found.type not in _READ_AS[answer_type]:
        raise UserError(f"the answer {answer[:40]!r} is not of the type {answer_type}: correct it, or use the type auto")
    if found.type == "symbolic":
        # LaTeX as it was written: a parser of formulas reads it.
        return Answer("symbolic", (answer if stated is None else stated).strip().strip("$").strip())
    return found if answer_type == "auto" else replace(found, type=answer_type)


# Types that a given type accepts: an integer is also a decimal number.
_READ_AS = {
    "integer": ("integer",),
    "decimal": ("decimal", "integer"),
    "fraction": ("fraction", "decimal", "integer"),
    "percent": ("percent", "decimal", "integer"),
    "time": ("time",),
    "tuple": ("tuple",),
    "choice": ("choice",),
    "text": ("text",),
    "symbolic": ("symbolic",),
}


def _typed(text: str) -> Answer | None:
    """The answer if it is a number, a time, a tuple or a choice."""
    group = _GROUP.fullmatch(text)
    if group is not None:
        elements = tuple(_element(part) for part in group.group(1).split(","))
        return Answer("tuple", text, elements=elements, brackets=text[0])
    if re.fullmatch(r"\(?[A-Z]\)?[.:]?", text):
        return Answer("choice", text.strip("().:"))
    match = re.fullmatch(rf"[$€£]?({_NUMBER.pattern}){_UNIT}", text)
    if match is None or not any(match.group(name) for name in ("clock", "above", "number")) or match.group("factor"):
        return None
    number = _number(match)
    if number.clock is None and number.value is None:  # a division by zero
        return None
    kinds = {"time": number.clock is not None, "percent": number.is_percent, "fraction": match.group("above") is not None}
    kind = next((name for name, is_it in kinds.items() if is_it), "decimal" if number.is_decimal else "integer")
    return Answer(kind, text, number=number)


def _element(text: str) -> Answer:
    return _typed(text.strip()) or Answer("text", text.strip())


def _is_symbolic(written: str, text: str) -> bool:
    """Whether a text is a formula: LaTeX, or an expression of numbers, operators and names of one letter."""
    if re.search(r"\\(?!text|mathrm|textbf)[a-zA-Z]", written) or re.search(r"[π√^]", text):
        return True
    names = _WORDS.findall(text)
    return (
        re.fullmatch(r"[\d\s.+\-*/()=a-zA-Z]+", text) is not None
        and all(name in _FUNCTIONS for name in names)
        and re.search(r"[\d+*/=]", text) is not None
        and re.search(r"[a-zA-Z+*/=(]", text) is not None
    )


def marked_part(text: str) -> str | None:
    r"""What a text marks as its answer: the content of the last `\boxed{}`, else the line after the last `####`; None for no mark.

    Example:
        >>> marked_part(r"so \boxed{\frac{1}{2}} it is"), marked_part("6 * 7\n#### 42\nMore?"), marked_part("42")
        ('\\frac{1}{2}', '42', None)
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start >= 0:
        start = text.index("{", start)
        depth = 0
        for end in range(start, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start + 1 : end]
        return text[start + 1 :]  # cut by the token limit
    _, mark, rest = text.rpartition("####")
    return next((line for line in rest.splitlines() if line.strip()), "").strip() if mark else None


def readable(text: str) -> str:
    r"""A text without the markup of LaTeX and Markdown: plain minus signs, separators, fractions and percent signs.

    Example:
        >>> readable(r"$3\frac{1}{2}$ or 9{,}500 or 25\% or 1.5 \times 10^{3}")
        '$3 1/2$ or 9,500 or 25% or 1.5e3'
    """
    for old, new in _REPLACED:
        text = text.replace(old, new)
    for pattern, substitute in _SUBSTITUTED:
        text = pattern.sub(substitute, text)
    return text


_REPLACED = (
    ("\u2212", "-"), ("\ufe63", "-"), ("\uff0d", "-"),  # minus signs
    ("\u00a0", " "), ("\u2007", " "), ("\u2009", " "), ("\u202f", " "),  # spaces between groups of digits
    ("\u2044", "/"), ("\uff05", "%"),
    ("{,}", ","), ("\\,", " "), ("\\;", " "), ("\\:", " "), ("\\!", ""), ("\\ ", " "), ("~", " "),
    ("\\left", ""), ("\\right", ""), ("\\$", "$"), ("\\%", "%"), ("\\{", "{"), ("\\}", "}"),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\(", " "), ("\\)", " "), ("\\[", " "), ("\\]", " "),
    ("**", ""), ("__", ""), ("`", ""),
    ("½", " 1/2"), ("¼", " 1/4"), ("¾", " 3/4"), ("⅓", " 1/3"), ("⅔", " 2/3"),
)  # fmt: skip

_SUBSTITUTED = (
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit)\s*\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\\sqrt(?:\[\d+\])?\s*\{?"), "√"),
    (re.compile(r"(?<![\w.])[\u2013\u2014](?=[\d.])"), "-"),  # a dash in place of a minus
    (re.compile(r"(?<=\d)\s*\\frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?"), r" \1/\2"),  # a mixed number
    (re.compile(r"\\frac\s*\{(-?\d+)\}\s*\{(\d+)\}|\\frac(\d)(\d)"), lambda found: f"{found[1] or found[3]}/{found[2] or found[4]}"),
    (re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|\u00d7|\*)\s*10\s*\^\s*\{?([-+]?\d+)\}?"), r"e\1"),
    (re.compile(r"\^\s*\{"), "^"),
)  # fmt: skip


def numbers(text: str) -> Iterator[Number]:
    """The numbers and times in a text that `readable` has made, in order.

    Example:
        >>> [str(number.value) for number in numbers("first 3, then 1,204.5 or 2 000 000 or 3 1/2")]
        ['3', '2409/2', '2000000', '7/2']
    """
    return (_number(match) for match in _NUMBER.finditer(text) if any(match.group(name) for name in ("clock", "above", "number")))


def tuples(text: str) -> list[tuple[str, list[str]]]:
    """The opening brackets and elements of the tuples, lists and sets in a text, in order."""
    return [(match.group()[0], [part.strip() for part in match.group(1).split(",")]) for match in _GROUP.finditer(text)]


def _number(match: re.Match[str]) -> Number:
    if match.group("clock"):
        clock = [int(part) for part in match.group("clock").split(":")]
        if match.group("half"):
            clock[0] = clock[0] % 12 + (12 if match.group("half") in "pP" else 0)
        return Number(None, clock=tuple(clock))
    sign = -1 if match.group("sign").startswith("-") else 1
    is_decimal = False
    if match.group("above"):
        above, below = _digits(match.group("above")), _digits(match.group("below"))
        value = None if below == 0 else Fraction(above) / Fraction(below) + int(match.group("whole") or 0)
    else:
        written = match.group("number").replace(",", "").replace(" ", "")
        is_decimal = not written.isdigit()
        exponent = re.search(r"[eE]([-+]?\d+)$", written)
        # An exponent of a million digits would take all memory.
        value = None if exponent and abs(int(exponent[1])) > 400 else Fraction(written)
    if match.group("factor") or value is None:
        return Number(None, match.group("percent") is not None, is_decimal)
    return Number(sign * value, match.group("percent") is not None, is_decimal)


def _digits(text: str) -> int:
    return int(text.replace(",", "").replace(" ", ""))
