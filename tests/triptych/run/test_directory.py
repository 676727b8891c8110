"""Run folders: refused names, and the first key that differs between two configs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.directory import first_difference


@pytest.mark.parametrize("name", ["", "/etc", "../up", "a/../../b", " a"])
def test_names_that_leave_the_output_folder_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="name is"):
        RunConfig(name=name)


TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3))  # fmt: skip


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), TREES, max_size=4))
def test_a_config_does_not_differ_from_itself(tree: dict[str, Any]) -> None:
    assert first_difference(tree, tree) is None


def test_differences_are_found_in_order_also_where_a_key_is_new_or_gone() -> None:
    assert first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == "b.c=2 instead of 3"
    assert first_difference({"a": 1}, {"a": 1, "d": 4}) == "d=None instead of 4"
    assert first_difference({"a": 1, "gone": 2}, {"a": 1}) == "gone=2 instead of None"
    assert first_difference({"tracker": 1, "resume": "auto"}, {"tracker": 2, "resume": "must"}) is None
