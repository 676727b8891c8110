"""Memories are compared story by story."""

import pytest

from captain_cinema.toy.evaluation import compare
from captain_cinema.toy.probe import (
    IDENTITY_PARTS,
    SETTING_PARTS,
    Outcome,
)


def test_memories_are_compared_story_by_story() -> None:
    def outcome(*, identity: bool, setting: bool) -> Outcome:
        right = dict.fromkeys(IDENTITY_PARTS, identity) | dict.fromkeys(SETTING_PARTS, setting)
        return Outcome(right, 1, 1, 0.0, 1, 0.0, 1.0, 1.0, 1.0, True)

    good, bad = outcome(identity=True, setting=True), outcome(identity=False, setting=True)
    found = compare(
        {"golden": {8: [good] * 3 + [bad], 16: [good] * 4}, "uniform_retrieved": {8: [bad] * 4, 16: [good] * 4}, "mine": {8: [bad]}},
        confidence=0.95,
        seed=0,
    )
    assert [(row["memory"], row["against"]) for row in found] == [("golden", "uniform_retrieved")]
    assert found[0]["identity"] == pytest.approx(3 / 8)
    assert found[0]["identity_interval"][0] < 3 / 8 < found[0]["identity_interval"][1]
    assert (found[0]["set"], found[0]["set_interval"]) == (0.0, [0.0, 0.0])
