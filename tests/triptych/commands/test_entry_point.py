"""Hydra entry points: texts for Hydra, sweeps and their members."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from triptych.commands.messages import quote_text
from triptych.commands.sweep import _together
from triptych.run.config import RunConfig


@example("\\:")
@given(st.text(st.sampled_from("ab ;,[]{}()'\"\\=$:#"), min_size=1, max_size=12))
def test_a_text_arrives_as_it_was_typed(text: str) -> None:
    if text[0] in "'\"" or text.strip() != text or "${" in text:
        return  # quoted by the user, or an interpolation
    override = OverridesParser.create().parse_override(quote_text(f"name={text}", RunConfig))
    value = override.value()
    if isinstance(value, str):  # what Hydra reads as a list or a number by itself stays one, and is refused as no text
        assert value == text


def test_options_may_stand_among_the_overrides() -> None:
    assert _together(["a=1", "-m", "b=2"]) == ["a=1", "b=2", "-m"]
    assert _together(["a=1", "-m", "b=2", "--config-dir", "x"]) == ["a=1", "-m", "b=2", "--config-dir", "x"]
