"""Secrets: used as texts, written as their interpolation, recognised when they change."""

import copy
import json
import pickle
from dataclasses import asdict, dataclass
from typing import Any

from triptych.run.secret import Secret, leaves, mask_secrets, secret_digests, without_secrets

KEY = Secret("sk-12345", "${oc.env:KEY}")


@dataclass
class Holder:
    key: Any
    inner: Any


def test_a_secret_is_its_text_and_survives_copies() -> None:
    for same in (KEY, copy.deepcopy(KEY), pickle.loads(pickle.dumps(KEY)), asdict(Holder(KEY, {}))["key"]):
        assert same == "sk-12345"
        assert isinstance(same, Secret)
        assert same.shown == "${oc.env:KEY}"


def test_no_secret_is_left_in_a_shown_tree() -> None:
    tree = asdict(Holder(KEY, {"list": [KEY, 1, {"deep": KEY}], "tuple": (KEY,), "plain": "a"}))
    text = json.dumps(without_secrets(tree))
    assert "sk-12345" not in text
    assert text.count("${oc.env:KEY}") == 4
    assert without_secrets(tree)["inner"]["plain"] == "a"


def test_digests_find_a_changed_value_and_differ_between_runs() -> None:
    first = secret_digests({"a": [KEY], "b": 1}, b"run 1")
    assert list(first) == ["a.0"]
    assert first == secret_digests({"a": [KEY]}, b"run 1")
    assert first != secret_digests({"a": [KEY]}, b"run 2")
    assert first != secret_digests({"a": [Secret("other", KEY.shown)]}, b"run 1")


def test_a_page_shows_no_secret_in_the_middle_of_a_text_either() -> None:
    odd = Secret('a<b>"c&d', "${oc.env:ODD}")
    short = Secret("no", "${oc.env:ANSWER}")
    longer = Secret("sk-12345-67", "${oc.env:LONGER}")
    page = mask_secrets("<p>Evaluation of sk-12345/model a&lt;b&gt;&quot;c&amp;d nowhere sk-12345-67</p>", {"a": [KEY, odd, short, longer]})
    assert page == "<p>Evaluation of ${oc.env:KEY}/model ${oc.env:ODD} nowhere ${oc.env:LONGER}</p>"


def test_leaves_are_found_at_any_depth() -> None:
    assert dict(leaves({"a": 1, "b": [{"c": 2}, ()], "d": {}})) == {"a": 1, "b.0.c": 2}
