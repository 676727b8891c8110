"""Building choices: as Hydra does, with texts that arrive as they are."""

import functools
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from triptych.commands.build import build
from triptych.errors import UserError
from triptych.run.secret import Secret


class Holder:
    def __init__(self, *texts: Any, **named: Any) -> None:
        self.content = (texts, named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holder) and self.content == other.content


HOLDER = f"{Holder.__module__}.Holder"


@given(st.text("$\\{}a:.'", max_size=12))
def test_texts_of_a_choice_arrive_as_they_are(text: str) -> None:
    """Settings are resolved once; a key from the environment may contain anything."""
    built = build({"_target_": HOLDER, "text": text, "deep": [{"text": text}]}, key=text)
    assert built.content == ((), {"text": text, "deep": [{"text": text}], "key": text})
    assert type(build({"_target_": HOLDER, "key": Secret(text, "shown")}).content[1]["key"]) is Secret


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": HOLDER, "a": 1, "b": None, "c": [1, {"d": 2.5}], "e": {"f": "g"}},
        {"_target_": HOLDER, "inner": {"_target_": HOLDER, "list": [{"_target_": HOLDER, "x": 1}]}},
        {"_target_": HOLDER, "_args_": [1, {"_target_": HOLDER}], "a": 2},
        {"_target_": HOLDER, "_recursive_": False, "inner": {"_target_": HOLDER}},
        {"_target_": HOLDER, "inner": {"_target_": "builtins.dict", "a": 1}},
        {"_target_": "math.hypot", "_args_": [3, 4]},
    ],
)
def test_the_result_is_that_of_hydra(node: dict[str, Any]) -> None:
    assert build(node) == instantiate({"_convert_": "all", **node})


def test_arguments_given_in_code_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build({"_target_": HOLDER, "a": 1}, "x", a=2, b=3).content == (("x",), {"a": 2, "b": 3})
    made = build({"_target_": HOLDER, "_partial_": True, "a": 1})
    assert isinstance(made, functools.partial)
    assert made(b=2).content == ((), {"a": 1, "b": 2})


@pytest.mark.parametrize("target", ["no.such.thing", "os.system", ""])
def test_a_target_that_is_missing_or_blocked_is_refused_by_hydra(target: str) -> None:
    with pytest.raises(InstantiationException):
        build({"_target_": target})


def _fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x")])
def test_an_error_while_building_is_one_of_hydra_and_a_message_to_the_user_stays(error: Exception) -> None:
    name = f"{_fails.__module__}._fails"
    with pytest.raises(InstantiationException) as caught:
        build({"_target_": name}, error)
    assert caught.value.__cause__ is error
    with pytest.raises(UserError, match="give a folder"):
        build({"_target_": name}, UserError("give a folder"))
    with pytest.raises(RuntimeError):
        build({"_target_": name, "_partial_": True}, RuntimeError())()
