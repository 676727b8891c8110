"""Stopwatch: seconds of phases."""

import time

import torch

from triptych.telemetry.stopwatch import Stopwatch


def test_phases_add_up_and_reset() -> None:
    watch = Stopwatch(torch.device("cpu"))
    started = time.perf_counter()
    for name in ("forward", "backward", "forward"):
        with watch.phase(name):
            time.sleep(0.01)
    passed = time.perf_counter() - started
    found = watch.read(per=2)
    assert found["timing/forward_seconds"] >= 0.01
    assert found["timing/backward_seconds"] >= 0.005
    assert 2 * (found["timing/forward_seconds"] + found["timing/backward_seconds"]) <= passed
    assert found["timing/peak_memory_gib"] > 0
    assert set(watch.read()) == {"timing/peak_memory_gib"}
