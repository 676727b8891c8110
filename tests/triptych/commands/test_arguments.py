"""Arguments of `_target_` nodes: numbers and strings of a wrong type are named, other types are left to the target."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from triptych.commands.arguments import check_arguments
from triptych.errors import UserError


class Thing:
    def __init__(
        self,
        size: int,
        *,
        rate: float = 1.0,
        name: str | None = None,
        sides: list[int] | None = None,
        flag: bool = False,
        path: str | Path = "",
        shape: Sequence[int] = (),
        free: Any = None,
    ) -> None:
        raise AssertionError("the check must not build the target")


def node(**arguments: object) -> Any:
    return OmegaConf.create({"part": {"_target_": "things.Thing", **arguments}, "other": [{"_target_": "no.such.thing", "size": "x"}]})


@pytest.fixture(autouse=True)
def _things(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("things")
    module.Thing = Thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "things", module)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"size": 3, "rate": 2, "name": None, "sides": [1, 2], "flag": True},
        {"size": "${number}", "rate": 1e-3},
        {"size": "???"},
        {"path": 3, "shape": "wide", "free": {"a": 1}},
    ],
)
def test_matching_and_non_plain_arguments_pass(arguments: dict[str, object]) -> None:
    check_arguments(OmegaConf.merge(node(**arguments), {"number": 4}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "abc"}, "part.size is abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ({"size": None}, "part.size is None"),
        ({"rate": "fast"}, "part.rate is fast"),
        ({"sides": ["a"]}, "part.sides is"),
        ({"sides": 8}, "part.sides is 8"),
        ({"flag": "perhaps"}, "part.flag is perhaps"),
        ({"size": "${number}"}, "part.size is four"),
    ],
)
def test_a_wrong_type_is_named_with_its_path(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_arguments(OmegaConf.merge(node(**arguments), {"number": "four"}))
    assert message in str(error.value)


def test_an_argument_that_the_target_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown setting part\.sise: part has size, rate, name, "):
        check_arguments(node(size=1, sise=2))


def test_a_value_from_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-verysecret")
    with pytest.raises(UserError, match=r"^part\.size is \$\{oc\.env:KEY\}, whose value is no int: change it$") as caught:
        check_arguments(node(size="${oc.env:KEY}"))
    assert caught.value.__cause__ is None
    config = node(size=1)
    config.copy = "${part}"
    config.part.size = "${oc.env:KEY}"
    with pytest.raises(UserError, match=r"^part\.size is "):
        check_arguments(config)
