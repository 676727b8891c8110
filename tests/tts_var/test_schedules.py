"""The searches as functions are those of the configs."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from tts_var import schedules
from tts_var.numerics.schedule import SearchConfig, plan

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "var" / "search").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_function_of_every_config_returns_its_settings(path: Path) -> None:
    found = getattr(schedules, path.stem)()
    assert isinstance(found, SearchConfig)
    written = asdict(SearchConfig(**{**asdict(SearchConfig()), **yaml.safe_load(path.read_text()), "events": []}))
    events = [{"keep": None, **event} for event in yaml.safe_load(path.read_text())["events"]]
    assert asdict(found) == {**written, "events": events}
    assert plan(found, 13)


def test_every_call_returns_settings_of_its_own() -> None:
    first = schedules.tts_var()
    first.events.clear()
    first.batch_schedule[0] = 99
    assert schedules.tts_var() == schedules.tts_var(1) != first
