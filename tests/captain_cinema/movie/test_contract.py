"""The contracts of planners and verifiers, tested for every implementation."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.movie import Planner, Verifier

if find_spec("captain_cinema.toy") is None:
    pytest.skip("captain_cinema.toy is absent, and there is no other planner or verifier", allow_module_level=True)

from captain_cinema.toy.planner import TemplatePlanner
from captain_cinema.toy.verifier import TinyCinemaVerifier

PLANNERS = pytest.mark.parametrize("planner", [TemplatePlanner()], ids=["template"])
VERIFIERS = pytest.mark.parametrize("verifier", [TinyCinemaVerifier()], ids=["tiny_cinema"])
STORYLINE = "ada walks in the kitchen; bo jumps in the kitchen; ada returns"


@PLANNERS
def test_planning_is_deterministic_and_storyboards_are_consistent(planner: Planner) -> None:
    board = planner(STORYLINE, seed=1)
    assert isinstance(board, Storyboard)
    assert len(board.shots) == 3
    assert board == planner(STORYLINE, seed=1)
    for shot in board.shots:
        assert shot.caption
        assert set(shot.characters) <= set(board.characters)
        assert shot.place is None or shot.place in board.places


@VERIFIERS
def test_a_verdict_has_an_entry_per_detail_and_is_empty_without_descriptions(verifier: Verifier) -> None:
    board = TemplatePlanner()(STORYLINE, seed=1)
    found = verifier(board, 0, torch.zeros(3, 64, 64), None)
    assert found
    assert not all(found.values())
    bare = Storyboard(board.title, dict.fromkeys(board.characters, ""), dict.fromkeys(board.places, ""), board.shots, board.seed)
    assert verifier(bare, 0, torch.zeros(3, 64, 64), None) == {}
    free = replace(board, shots=tuple(replace(shot, caption="a lighthouse in a storm") for shot in board.shots))
    assert verifier(free, 0, torch.zeros(3, 64, 64), None) == {}
