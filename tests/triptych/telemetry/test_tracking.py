"""Trackers: what is written, what survives a kill, and what happens when one fails."""

from collections.abc import Mapping

from triptych.telemetry.tracking import Trackers


class Recorder:
    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.fails_at = fails_at

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the dashboard is away")
        self.steps.append(step)

    def close(self) -> None:
        self.steps.append(-1)


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on() -> None:
    good, bad = Recorder(), Recorder(fails_at=2)
    trackers = Trackers([bad, good])
    for step in range(4):
        trackers.log({}, step=step)
    trackers.close()
    assert good.steps == [0, 1, 2, 3, -1]
    assert bad.steps == [0, 1]
