"""Several trackers as one: a failing tracker is dropped."""

from collections.abc import Mapping

from triptych.telemetry.tracking import Trackers


class Recorder:
    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.fails_at = fails_at

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the dashboard is unreachable")
        self.steps.append(step)

    def close(self) -> None:
        self.steps.append(-1)


def test_a_failing_tracker_is_dropped_and_the_others_continue() -> None:
    good, bad = Recorder(), Recorder(fails_at=2)
    trackers = Trackers([bad, good])
    for step in range(4):
        trackers.log({}, step=step)
    trackers.close()
    assert good.steps == [0, 1, 2, 3, -1]
    assert bad.steps == [0, 1]
