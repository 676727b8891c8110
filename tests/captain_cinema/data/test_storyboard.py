"""Storyboards as files, and their refusals."""

import json
from pathlib import Path

import pytest

from captain_cinema.data.storyboard import Shot, Storyboard, read_storyboard
from captain_cinema.toy.planner import plan_storyboard
from triptych.errors import UserError

STORYLINE = "ada meets bo in the kitchen; bo leaves; ada finds the red box in the attic; bo returns"


def test_a_storyboard_is_read_as_it_was_written(tmp_path: Path) -> None:
    board = plan_storyboard(STORYLINE, seed=3)
    board.write(tmp_path / "storyboard.json")
    assert read_storyboard(tmp_path / "storyboard.json") == board


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "its version is not 1"),
        ({"shots": []}, "has no shot"),
        ({"shots": [{"caption": " "}]}, "shot 1 has no caption"),
        ({"shots": [{}]}, "shot 1 has no caption"),
        ({"shots": [{"caption": "x", "characters": ["eve"]}]}, "'eve', which is not in the storyboard's characters"),
        ({"shots": [{"caption": "x", "place": "moon"}]}, "at the place 'moon', which is not in the storyboard's places"),
        ({"shots": [{"caption": "x", "seconds": -1}]}, "it must be above 0 and at most 60"),
        ({"shots": [{"caption": "x", "seconds": "long"}]}, "give a number"),
        ({"shots": [{"caption": "x", "length": 3}]}, "shot 1 has 'length', which is not a known key"),
        ({"shots": [{"caption": "x", "seconds": 1e9}]}, "at most 60"),
        ({"shots": [{"caption": "x", "place": ["attic"]}]}, "its place must be one name"),
        ({"title": None}, "its title is None"),
        ({"seed": "x"}, "its seed 'x'"),
        ({"colour": "red"}, "the storyboard has 'colour', which is not a known key"),
        ({"characters": ["ada"]}, "its characters must map names to descriptions"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_storyboard_with_an_invalid_value_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "storyboard.json"
    plan_storyboard(STORYLINE).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as caught:
        read_storyboard(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b"[]"], ids=["bytes", "torn", "list"])
def test_a_file_that_is_not_a_storyboard_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "storyboard.json").write_bytes(content)
    with pytest.raises(UserError, match="storyboard"):
        read_storyboard(tmp_path / "storyboard.json")


def test_tags_are_the_characters_then_the_place() -> None:
    assert Shot("x", ("ada", "bo"), "attic").tags == ("ada", "bo", "attic")
    with pytest.raises(UserError, match="no shot"):
        Storyboard()
