"""Hydra entry points: quoting of strings, and the order of options and overrides."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from triptych.commands.messages import quote_text
from triptych.commands.sweep import _together
from triptych.run.config import RunConfig


@example("\\:")
@given(st.text(st.sampled_from("ab ;,[]{}()'\"\\=$:#"), min_size=1, max_size=12))
def test_a_string_is_passed_through_unchanged(text: str) -> None:
    if text[0] in "'\"" or text.strip() != text or "${" in text:
        return  # quoted by the user, or an interpolation
    override = OverridesParser.create().parse_override(quote_text(f"name={text}", RunConfig))
    value = override.value()
    if isinstance(value, str):  # what Hydra parses as a list or a number stays one, and the schema refuses it
        assert value == text


def test_options_may_come_between_overrides() -> None:
    assert _together(["a=1", "-m", "b=2"]) == ["a=1", "b=2", "-m"]
    assert _together(["a=1", "-m", "b=2", "--config-dir", "x"]) == ["a=1", "-m", "b=2", "--config-dir", "x"]
