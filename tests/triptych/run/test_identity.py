"""Identity: differences of settings, inputs and environment, and the changes that are named."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from triptych.run.identity import Change, Identity, differences, is_named
from triptych.run.secret import Secret

TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3))  # fmt: skip


def found(before: dict[str, Any], after: dict[str, Any], **options: Any) -> list[str]:
    return [f"{change.key}={change.before}->{change.after}" for change in differences(Identity(before), Identity(after), **options)]


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), TREES, max_size=4))
def test_a_config_does_not_differ_from_itself(tree: dict[str, Any]) -> None:
    assert found(tree, tree) == []


def test_differences_are_found_in_order_also_where_a_key_is_new_or_gone() -> None:
    assert found({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == ["b.c=2->3", "d=None->4"]
    assert found({"a": 1, "gone": 2}, {"a": 1}) == ["gone=2->None"]
    assert found({"tracker": 1, "resume": "auto", "name": "a"}, {"tracker": 2, "resume": "must", "name": "b"}) == []
    assert found({"n": 1}, {"n": 2}, budget_keys=("n",)) == []
    assert found({"n": 2}, {"n": 1}, budget_keys=("n",)) == ["n=2->1"]


def test_an_input_is_its_content_and_not_its_path() -> None:
    before = Identity({"task": {"path": "a.jsonl", "match": "x"}}, inputs={"task.path": "111"})
    moved = Identity({"task": {"path": "/data/a.jsonl", "match": "x"}}, inputs={"task.path": "111"})
    changed = Identity(before.settings, inputs={"task.path": "222"})
    gone = Identity(before.settings)
    both = Identity(moved.settings, inputs={"task.path": "222"})
    assert list(differences(before, moved)) == []
    assert list(differences(before, changed)) == [Change("task.path", "111", "222", is_input=True)]
    assert list(differences(before, gone)) == [Change("task.path", "111", None, is_input=True)]
    assert list(differences(before, both)) == [Change("task.path", "a.jsonl", "/data/a.jsonl", is_input=False)]


def test_an_equal_input_may_move_in_a_list_and_by_a_variable() -> None:
    before = Identity({"files": ["a", "b"], "other": []}, inputs={"files.0": "111"})
    moved = Identity({"files": ["/data/a", "b"], "other": []}, inputs={"files.0": "111"})
    assert list(differences(before, moved)) == []
    assert [change.key for change in differences(before, Identity(moved.settings, inputs={"files.0": "222"}))] == ["files"]
    assert [change.key for change in differences(before, Identity(before.settings, inputs={"files.0": "222"}))] == ["files.0"]
    assert [change.key for change in differences(before, Identity({"files": ["a", "b"], "other": None}, inputs=before.inputs))] == ["other"]
    settings = {"path": Secret("/scratch/a", "${oc.env:DATA}")}
    saved = Identity.of(settings, {"path": "111"})
    elsewhere = {"path": Secret("/home/a", "${oc.env:DATA}")}
    assert list(differences(saved, Identity.of(elsewhere, {"path": "111"}).kept(saved, elsewhere))) == []
    assert [change.key for change in differences(saved, Identity.of(elsewhere, {"path": "222"}).kept(saved, elsewhere))] == ["path", "path"]


def test_a_variable_with_another_value_is_a_difference_that_does_not_show_it() -> None:
    settings = {"seeds": {"a": Secret("12345", "${oc.env:SEED}")}}
    saved = Identity.of(settings, {})
    assert saved.settings == {"seeds": {"a": "${oc.env:SEED}"}}
    assert list(differences(saved, Identity.of(settings, {}).kept(saved, settings))) == []
    other = {"seeds": {"a": Secret("54321", "${oc.env:SEED}")}}
    [change] = differences(saved, Identity.of(other, {}).kept(saved, other))
    assert change.key == "seeds.a"
    assert "12345" not in f"{change} {saved}"
    assert "54321" not in f"{change}"


def test_ids_are_random_and_kept() -> None:
    first, second = Identity.of({}, {}), Identity.of({}, {})
    assert first.id != second.id
    assert second.kept(first, {}).id == first.id


def test_a_change_is_named_by_its_key_or_one_above() -> None:
    assert is_named("a.b", ["x", "a"])
    assert not is_named("a.bc", ["a.b"])
