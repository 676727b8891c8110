"""Schedules: plans, order of events, mapping to other numbers of scales, and memory."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import UserError
from tts_var.numerics.schedule import Event, SearchConfig, estimate_memory, plan, rescaled


def test_the_papers_schedule_is_planned_as_written() -> None:
    schedule = [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1]
    events = [Event(2, "cluster"), Event(5, "cluster"), Event(6, "resample"), Event(9, "resample")]
    steps = plan(SearchConfig(schedule, events, num_images=2), 13)
    # Scale i is generated with the particles alive after scale i - 1, times the number of final images.
    assert [step.particles for step in steps] == [16, 16, 16, 12, 12, 12, 8, 4, 4, 4, 2, 2, 2]
    assert [step.events for step in steps if step.events] == [(("cluster", 12),), (("cluster", 8),), (("resample", 4),), (("resample", 2),)]


def test_several_events_at_one_scale_run_in_order() -> None:
    steps = plan(SearchConfig([8, 2], [Event(1, "cluster", 4), Event(1, "resample")]), 2)
    assert steps[1].events == (("cluster", 4), ("resample", 2))


@pytest.mark.parametrize("field", ["potential", "projection", "scheme"])
def test_unknown_names_are_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(UserError, match=f"search.{field} is 'nonsense': choose one of"):
        SearchConfig(**{field: "nonsense"})  # type: ignore[arg-type]


def test_memory_counts_old_and_new_caches() -> None:
    steps = plan(SearchConfig([4, 1], [Event(1, "resample")]), 2)
    assert estimate_memory(steps, [10, 30]) == 4 * 40


PAPER = SearchConfig(
    [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1],
    [Event(2, "cluster"), Event(5, "cluster"), Event(6, "resample"), Event(9, "resample")],
    num_scales=13,
)


@pytest.mark.parametrize("num_scales", [7, 10, 12, 13, 20])
def test_a_schedule_for_other_scales_has_the_same_events_in_order(num_scales: int) -> None:
    found, written = plan(PAPER, num_scales), plan(PAPER, 13)
    assert len(found) == num_scales
    assert [event for step in found for event in step.events] == [event for step in written for event in step.events]
    found_scales = [scale for scale, step in enumerate(found) if step.events]
    assert len(found_scales) == 4
    for mapped, scale in zip(found_scales, (2, 5, 6, 9), strict=True):
        # The nearest scale, or the one after it if two events would coincide.
        assert abs(mapped - scale * (num_scales - 1) / 12) <= 1
    assert rescaled(PAPER, 13) == replace(PAPER, num_scales=None)


@given(st.integers(2, 30), st.data())
def test_a_schedule_for_other_scales_is_valid_or_refused(num_scales: int, data: st.DataObject) -> None:
    written = data.draw(st.integers(2, 16))
    scales = sorted(data.draw(st.sets(st.integers(0, written - 1), max_size=min(4, num_scales, written))))
    schedule = [2 ** (len(scales) - sum(other <= scale for other in scales)) for scale in range(written)]
    config = SearchConfig(schedule, [Event(scale, "resample") for scale in scales], num_scales=written)
    nearest = [math.floor(scale * (num_scales - 1) / (written - 1) + 0.5) for scale in scales]
    mapped: list[int] = []
    for scale in nearest:
        mapped.append(max(scale, mapped[-1] + 1) if mapped else scale)
    if mapped and mapped[-1] >= num_scales:  # too few scales after the last events
        with pytest.raises(UserError, match=f"too many for {num_scales} scales in order"):
            plan(config, num_scales)
        return
    steps = plan(config, num_scales)
    assert [scale for scale, step in enumerate(steps) if step.events] == mapped
    assert [step.events[0][1] for step in steps if step.events] == [2 ** (len(scales) - 1 - index) for index in range(len(scales))]


def test_errors_name_the_scales_of_the_schedule_as_written() -> None:
    for changed, message in (
        (replace(PAPER, events=PAPER.events[:-1]), "at scale 9 from 2 to 1 without an event"),
        (replace(PAPER, events=[*PAPER.events, Event(13, "resample")]), "scale 13: the scales are 0 to 12"),
        (
            replace(PAPER, batch_schedule=[1], events=[Event(scale, "resample") for scale in range(8)]),
            "8 scales, written for 13, too many for 7 scales",
        ),
    ):
        with pytest.raises(UserError, match=message):
            plan(changed, 7)
    with pytest.raises(UserError, match="num_scales is 12"):
        replace(PAPER, num_scales=12)
