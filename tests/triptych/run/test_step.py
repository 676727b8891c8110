"""A step that ends early: the guard is asked first, and the state is that of the previous step."""

from collections.abc import Mapping
from typing import NoReturn

import pytest

from triptych.checkpoint import Saveable
from triptych.run.step import Step


class StoppedError(Exception):
    pass


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int | None]] = []

    def checkpoint(self, step: int, state: Mapping[str, Saveable]) -> None:
        self.calls.append(("checkpoint", step))

    def stop(self, step: int | None) -> NoReturn:
        self.calls.append(("stop", step))
        raise StoppedError


class Guard:
    def __init__(self, is_sound: bool) -> None:
        self.is_sound = is_sound

    def check(self, step: int) -> None:
        raise ValueError(f"weights of step {step}")


def test_the_state_inside_a_step_is_that_of_the_step_before() -> None:
    run = Recorder()
    with pytest.raises(StoppedError):
        Step(7, run, {}, Guard(is_sound=True)).stop()
    assert run.calls == [("checkpoint", 6), ("stop", 6)]


def test_broken_weights_are_not_saved() -> None:
    run = Recorder()
    with pytest.raises(ValueError, match="weights of step 7"):
        Step(7, run, {}, Guard(is_sound=False)).stop()
    assert run.calls == []
