"""The grammar of storylines: shots per beat, places, boxes, framings, looks and refusals."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captain_cinema.toy.captions import NAMES, PLACES, parse_caption
from captain_cinema.toy.planner import TemplatePlanner, plan_storyboard
from captain_cinema.toy.rendering import SIZES
from triptych.errors import UserError

STORYLINE = "ada meets bo in the kitchen; bo leaves; ada finds the red box in the attic; bo returns"


def test_beats_become_shots() -> None:
    board = plan_storyboard(STORYLINE)
    assert [shot.characters for shot in board.shots] == [("ada",), ("bo",), ("bo",), ("ada",), ("ada",), ("bo",)]
    assert [shot.place for shot in board.shots] == ["kitchen"] * 3 + ["attic"] * 3
    captions = [parse_caption(shot.caption) for shot in board.shots]
    assert [caption.action for caption in captions] == [None, None, "walk right", None, None, "walk left"]
    assert [caption.prop for caption in captions] == [None, None, None, None, "red", None]
    assert [caption.size for caption in captions[3:5]] == ["wide", "close"]
    assert all(caption.colour is None for caption in captions)


def test_a_box_is_carried_until_it_is_dropped() -> None:
    board = plan_storyboard("ada finds the red box in the attic; ada jumps; ada drops the box; ada jumps")
    assert [parse_caption(shot.caption).prop for shot in board.shots] == [None, "red", "red", None, None]


def test_objects_after_at_and_with_are_not_places() -> None:
    board = plan_storyboard("ada looks at the moon in the garden; bo returns to the attic with the light in the cellar")
    assert [shot.place for shot in board.shots] == ["garden", "attic"]


def test_looks_follow_the_seed_and_are_described_once() -> None:
    board = plan_storyboard(STORYLINE, seed=1)
    assert board.characters != plan_storyboard(STORYLINE, seed=2).characters
    assert plan_storyboard(STORYLINE, seed=1) == board
    colours = [parse_caption(caption).colour for caption in board.captions()]
    assert [index for index, colour in enumerate(colours) if colour is not None] == [0, 1]
    assert len({text.split(",")[0] for text in board.characters.values()}) == 2


def test_a_place_holds_until_the_next_and_for_the_beats_before_the_first() -> None:
    board = plan_storyboard("ada jumps; bo walks into the attic; bo jumps; ada waits in the cellar")
    assert [shot.place for shot in board.shots] == ["attic", "attic", "attic", "cellar"]
    unnamed = {plan_storyboard("ada jumps", seed=seed).shots[0].place for seed in range(40)}
    assert unnamed == set(PLACES)  # a place is missing with probability 6 * (5 / 6)^40 < 0.5 %, and the seeds are fixed


def test_framings_take_turns_and_characters_of_one_beat_have_different_positions() -> None:
    board = plan_storyboard("ada jumps in the attic; bo jumps; ada jumps; bo meets ada")
    captions = [parse_caption(shot.caption) for shot in board.shots]
    assert [caption.size for caption in captions] == [tuple(SIZES)[index % len(SIZES)] for index in range(5)]
    assert [caption.position for caption in captions] == ["centre"] * 3 + ["left", "right"]


@pytest.mark.parametrize(
    ("verb", "action"),
    [("leaves", "walk right"), ("enters", "walk left"), ("dances", "jump"), ("looks", "approach"), ("waits", None)],
)
def test_verbs_give_actions(verb: str, action: str | None) -> None:
    (shot,) = plan_storyboard(f"ada {verb}").shots
    assert parse_caption(shot.caption).action == action


def test_looks_share_no_value_until_the_values_are_used_up() -> None:
    board = plan_storyboard("; ".join(f"{name} walks in the {place}" for name, place in zip(NAMES[:6], PLACES, strict=True)), seed=5)
    looks = [parse_caption(text) for text in board.characters.values()]
    assert len({look.colour for look in looks}) == 6  # of 6 colours
    assert len({look.shape for look in looks[:4]}) == len({look.hat for look in looks[:4]}) == 4  # of 4 shapes and hats
    assert [look.shape for look in looks[4:]] == [look.shape for look in looks[:2]]
    assert len({parse_caption(text).wall for text in board.places.values()}) == 6


BEATS = st.builds(
    lambda names, verb, place: f"{' and '.join(names)} {verb}{place}",
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    st.sampled_from(["walks", "jumps", "leaves", "finds the blue box", "drops the box", "looks"]),
    st.sampled_from(["", *(f" in the {place}" for place in PLACES)]),
)


@given(st.lists(BEATS, min_size=1, max_size=6), st.sampled_from(["; ", ". ", "\n"]), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_every_shot_names_its_character_and_place_and_the_tables_describe_them(beats: list[str], separator: str, seed: int) -> None:
    board = plan_storyboard(separator.join(beats), seed=seed)
    # One shot per named character, or two if the only one finds a box.
    expected = []
    for beat in beats:
        names = [word for word in re.findall(r"[a-z]+", beat) if word in NAMES]
        expected += [(name,) for name in (names * 2 if len(names) == 1 and "finds" in beat else names)]
    assert [shot.characters for shot in board.shots] == expected
    for shot in board.shots:
        caption = parse_caption(shot.caption)
        assert ((caption.name,), caption.place) == (shot.characters, shot.place)
        assert caption.colour is caption.wall is None
    assert set(board.characters) == {name for (name,) in expected}
    assert set(board.places) == {shot.place for shot in board.shots}
    assert all(board.characters.values())
    assert TemplatePlanner()(separator.join(beats), seed=seed) == board


def test_a_long_storyline_is_shortened_to_a_title() -> None:
    board = plan_storyboard("; ".join(["ada jumps in the attic"] * 10))
    assert len(board.title) <= 80
    assert board.title.endswith(" ...")
    assert plan_storyboard("ada jumps").title == "ada jumps"


@pytest.mark.parametrize(
    ("storyline", "message"),
    [
        ("  ; ", "the storyline is empty"),
        ("zoe waits in the attic", "names no character"),
        ("ada waits in the cave", "is at 'cave', which is not a place of tiny cinema"),
        ("ada finds the golden box", "has a golden box, which tiny cinema does not have"),
    ],
)
def test_a_storyline_outside_the_grammar_is_refused(storyline: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_storyboard(storyline)
