"""Storyboards as files, and the grammar that plans them."""

import json
from pathlib import Path

import pytest

from captain_cinema.data.storyboard import Shot, Storyboard, read_storyboard
from captain_cinema.toy.captions import parse_caption
from captain_cinema.toy.planner import plan_storyboard
from triptych.errors import UserError

STORYLINE = "ada meets bo in the kitchen; bo leaves; ada finds the red box in the attic; bo returns"


def test_a_storyboard_is_read_as_it_was_written(tmp_path: Path) -> None:
    board = plan_storyboard(STORYLINE, seed=3)
    board.write(tmp_path / "storyboard.json")
    assert read_storyboard(tmp_path / "storyboard.json") == board


def test_beats_become_shots() -> None:
    board = plan_storyboard(STORYLINE)
    assert [shot.characters for shot in board.shots] == [("ada",), ("bo",), ("bo",), ("ada",), ("ada",), ("bo",)]
    assert [shot.place for shot in board.shots] == ["kitchen"] * 3 + ["attic"] * 3
    said = [parse_caption(shot.caption) for shot in board.shots]
    assert [caption.action for caption in said] == [None, None, "walk right", None, None, "walk left"]
    assert [caption.prop for caption in said] == [None, None, None, None, "red", None]
    assert [caption.size for caption in said[3:5]] == ["wide", "close"]
    assert all(caption.colour is None for caption in said)


def test_a_box_is_carried_until_it_is_dropped() -> None:
    board = plan_storyboard("ada finds the red box in the attic; ada jumps; ada drops the box; ada jumps")
    assert [parse_caption(shot.caption).prop for shot in board.shots] == [None, "red", "red", None, None]


def test_what_is_looked_at_is_no_place() -> None:
    board = plan_storyboard("ada looks at the moon in the garden; bo returns to the attic with the light in the cellar")
    assert [shot.place for shot in board.shots] == ["garden", "attic"]


def test_looks_are_dealt_by_the_seed_and_told_once() -> None:
    board = plan_storyboard(STORYLINE, seed=1)
    assert board.characters != plan_storyboard(STORYLINE, seed=2).characters
    assert plan_storyboard(STORYLINE, seed=1) == board
    told = [parse_caption(caption).colour for caption in board.captions()]
    assert [index for index, colour in enumerate(told) if colour is not None] == [0, 1]
    assert len({text.split(",")[0] for text in board.characters.values()}) == 2


@pytest.mark.parametrize(
    ("storyline", "told"),
    [
        ("  ; ", "the storyline is empty"),
        ("somebody waits in the attic", "names nobody"),
        ("ada waits in the cave", "is at 'cave': tiny cinema knows"),
        ("ada finds the golden box", "has a golden box: boxes are"),
    ],
)
def test_a_storyline_of_another_world_is_refused(storyline: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan_storyboard(storyline)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 9}, "its version is not 1"),
        ({"shots": []}, "has no shot"),
        ({"shots": [{"caption": " "}]}, "shot 1 has no caption"),
        ({"shots": [{}]}, "shot 1 has no caption"),
        ({"shots": [{"caption": "x", "characters": ["eve"]}]}, "'eve', whom the storyboard does not know"),
        ({"shots": [{"caption": "x", "place": "moon"}]}, "at the place 'moon', which the storyboard does not know"),
        ({"shots": [{"caption": "x", "seconds": -1}]}, "the duration must be above 0"),
        ({"shots": [{"caption": "x", "seconds": "long"}]}, "give a number"),
        ({"shots": [{"caption": "x", "length": 3}]}, "shot 1 has 'length', which means nothing"),
        ({"shots": [{"caption": "x", "seconds": 1e9}]}, "at most 60"),
        ({"shots": [{"caption": "x", "place": ["attic"]}]}, "its place must be one name"),
        ({"title": None}, "its title is None"),
        ({"seed": "x"}, "its seed 'x'"),
        ({"colour": "red"}, "the storyboard has 'colour', which means nothing"),
        ({"characters": ["ada"]}, "its characters must map names to descriptions"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_storyboard_that_says_something_impossible_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    path = tmp_path / "storyboard.json"
    plan_storyboard(STORYLINE).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=told) as caught:
        read_storyboard(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b"[]"], ids=["bytes", "torn", "list"])
def test_a_file_that_is_no_storyboard_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "storyboard.json").write_bytes(content)
    with pytest.raises(UserError, match="storyboard"):
        read_storyboard(tmp_path / "storyboard.json")


def test_a_shot_counts_its_characters_before_its_place() -> None:
    assert Shot("x", ("ada", "bo"), "attic").tags == ("ada", "bo", "attic")
    with pytest.raises(UserError, match="no shot"):
        Storyboard()
