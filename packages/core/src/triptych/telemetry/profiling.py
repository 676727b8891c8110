"""Traces of a few steps by torch's profiler, and a summary of communication time."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType

from triptych.telemetry.logging import get_logger

_logger = get_logger("profile")

_STEPS = 3

Interval = tuple[float, float]


def start_profiler(folder: Path, rank: int, device: torch.device) -> torch.profiler.profile:
    """Profiles the third to the fifth step; `step` is to be called after each.

    Writes `rank_<rank>.json`, a trace for chrome://tracing or Perfetto, and `rank_<rank>.summary.json`, seconds per step.
    """
    folder.mkdir(exist_ok=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def write(found: torch.profiler.profile) -> None:
        found.export_chrome_trace(str(folder / f"rank_{rank:05d}.json"))
        summary = summarize(found.events() or [])
        (folder / f"rank_{rank:05d}.summary.json").write_text(json.dumps(summary, indent=1))
        message = f"{summary['step_seconds']:.3f} s a step, {summary['communication_seconds']:.3f} s of it with a collective in flight"
        _logger.info("profile            %s (%s)", message, folder)

    profiler = torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=_STEPS, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    )
    profiler.start()
    return profiler


def summarize(events: Iterable[Any]) -> dict[str, Any]:
    """Seconds per profiled step: in total, with a collective in flight, and of these without another kernel on the device.

    A collective that waits for another rank counts as in flight. Overlap with computation is not measured on CPU, so
    `communication_alone_seconds` is present on CUDA only.
    """
    steps: list[Interval] = []
    on_host: dict[str, list[Interval]] = {}
    on_device: dict[str, list[Interval]] = {}
    kernels: list[Interval] = []
    for event in events:
        span = (1e-6 * event.time_range.start, 1e-6 * event.time_range.end)
        if event.device_type == DeviceType.CPU:
            if event.name.startswith("ProfilerStep"):
                steps.append(span)
            elif event.name.startswith("gloo:"):
                on_host.setdefault(event.name, []).append(span)
        elif event.name.startswith("ncclDevKernel"):
            on_device.setdefault(event.name, []).append(span)
        elif not event.name.startswith(("nccl:", "gloo:", "ProfilerStep")):  # annotations span other kernels
            kernels.append(span)
    collectives = {**on_host, **on_device}
    in_flight = [span for spans in collectives.values() for span in spans]
    count = max(1, len(steps))
    summary: dict[str, Any] = {
        "steps": len(steps),
        "step_seconds": sum(end - start for start, end in steps) / count,
        "communication_seconds": length(in_flight) / count,
    }
    if kernels:
        # Time with a collective but no other kernel: |collectives + kernels| - |kernels|, lengths of unions of intervals.
        device_only = [span for spans in on_device.values() for span in spans]
        summary["communication_alone_seconds"] = (length([*device_only, *kernels]) - length(kernels)) / count
    summary["collectives"] = {
        name: {"calls": len(spans) / count, "seconds": length(spans) / count} for name, spans in sorted(collectives.items())
    }
    return summary


def length(spans: Iterable[Interval]) -> float:
    """Length of the union of the intervals.

    Example:
        >>> length([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
        4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
