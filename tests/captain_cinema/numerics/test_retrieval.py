"""Retrieval: orders by age and by tags, ties, and the properties of cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captain_cinema.numerics.retrieval import by_tags, by_time, cover, is_covered
from triptych.errors import UserError

TAGS = st.sets(st.sampled_from(["ada", "bo", "cy", "attic", "park"]), max_size=3)


def test_orders_are_by_score_and_ties_go_to_the_newer_frame() -> None:
    assert by_time(4) == [3, 2, 1, 0]
    past = [{"ada", "attic"}, {"bo"}, {"ada", "attic"}, {"park"}]
    assert by_tags(past, ["ada", "attic"]) == [2, 0, 3, 1]
    # A character before a place, at any age; two shared tags before one.
    assert by_tags([{"bo"}, {"park"}, {"ada"}, {"bo", "park", "ada"}, set()], ["bo", "park"]) == [3, 0, 1, 4, 2]


@given(st.lists(TAGS, min_size=1, max_size=8), TAGS, st.randoms(use_true_random=False))
def test_cover_shows_everything_once_before_anything_twice(past: list[set[str]], wanted: set[str], random) -> None:
    order = list(range(len(past)))
    random.shuffle(order)
    found = cover(order, past, wanted)
    assert sorted(found) == sorted(order)
    possible = wanted & set().union(*past)
    shown: set[str] = set()
    for index in found:
        if shown >= possible:
            break
        # Until all is shown, every frame adds something, and no frame left would add more.
        gain = len((past[index] & wanted) - shown)
        assert gain > 0
        rest = found[found.index(index) :]
        assert gain == max(len((past[other] & wanted) - shown) for other in rest)
        assert index == min((other for other in rest if len((past[other] & wanted) - shown) == gain), key=order.index)
        shown |= past[index] & wanted
    assert shown >= possible
    others = [index for index in found if not past[index] & wanted]
    assert others == [index for index in order if not past[index] & wanted]
    assert found[len(found) - len(others) :] == others


def test_cover_ranks_a_second_frame_for_a_missing_character_higher() -> None:
    past = [{"bo", "park"}, {"ada", "kitchen"}, {"ada", "park"}, {"ada", "kitchen"}]
    wanted = ["kitchen", "bo"]
    assert by_tags(past, wanted) == [3, 1, 0, 2]
    assert cover(by_tags(past, wanted), past, wanted) == [3, 0, 1, 2]
    assert not is_covered(by_tags(past, wanted), past, wanted, 2)
    assert is_covered(cover(by_tags(past, wanted), past, wanted), past, wanted, 2)


def test_tags_absent_from_the_past_are_not_required() -> None:
    assert is_covered([], [], {"ada"}, 3)
    assert is_covered([0], [{"bo"}], {"ada", "bo"}, 1)


@pytest.mark.parametrize("order", [[0, 0], [2], [-1]])
def test_an_invalid_order_is_refused(order: list[int]) -> None:
    with pytest.raises(UserError, match="give indices below 2, each at most once"):
        cover(order, [{"ada"}, {"bo"}], {"ada"})
