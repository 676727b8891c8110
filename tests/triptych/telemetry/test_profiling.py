"""Profiles: the recorded steps, and the time of communication."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch._C._autograd import DeviceType

from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.telemetry.profiling import summarize


def test_a_profile_records_the_third_to_the_fifth_step(tmp_path: Path) -> None:
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu", profile=True)) as run:
        run.begin({})
        for step in run.steps(7, {}):
            torch.ones(step.number, step.number) @ torch.ones(step.number, step.number)
    trace = json.loads((tmp_path / "a" / "profile" / "rank_00000.json").read_text())
    shapes = [event["args"]["Input Dims"][0] for event in trace["traceEvents"] if event.get("name") == "aten::mm"]
    assert shapes == [[3, 3], [4, 4], [5, 5]]
    summary = json.loads((tmp_path / "a" / "profile" / "rank_00000.summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["communication_seconds"] == 0
    assert 0 < summary["step_seconds"] < 60


class Span(NamedTuple):
    """An event in the form of torch's profiler, in microseconds."""

    name: str
    start: float
    end: float
    device_type: DeviceType = DeviceType.CPU

    @property
    def time_range(self) -> "Span":
        return self


def test_overlapping_collectives_count_once_and_alone_without_a_kernel() -> None:
    steps = [Span("ProfilerStep#2", 0, 10e6), Span("ProfilerStep#3", 10e6, 20e6)]
    gloo = [Span("gloo:all_reduce", 1e6, 3e6), Span("gloo:all_reduce", 2e6, 4e6), Span("gloo:broadcast", 11e6, 12e6)]
    on_host = summarize([*steps, *gloo, Span("aten::mm", 0, 9e6)])
    assert (on_host["step_seconds"], on_host["communication_seconds"]) == pytest.approx((10.0, 2.0))
    assert on_host["collectives"]["gloo:all_reduce"] == pytest.approx({"calls": 1.0, "seconds": 1.5})
    assert "communication_alone_seconds" not in on_host
    cuda = DeviceType.CUDA
    on_device = [
        Span("ncclDevKernel_AllGather", 1e6, 5e6, cuda), Span("gemm", 0, 2e6, cuda), Span("gemm", 4e6, 9e6, cuda),
        Span("nccl:all_gather", 0, 9e6, cuda), Span("ProfilerStep#2", 0, 9e6, cuda),
    ]  # fmt: skip
    found = summarize([*steps, *on_device])
    assert found["communication_seconds"] == pytest.approx(2.0)
    assert found["communication_alone_seconds"] == pytest.approx(1.0)
