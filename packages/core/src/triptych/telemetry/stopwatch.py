"""Seconds per phase of a step, and peak memory."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def training_seconds(timings: Mapping[str, float]) -> float:
    """The seconds of forward, backward and optimizer in a reading of `Stopwatch`, over which utilisation is taken."""
    return sum(timings.get(f"timing/{phase}_seconds", 0.0) for phase in ("forward", "backward", "optimizer"))


class Stopwatch:
    """Accumulates the seconds of named phases.

    On CUDA a phase lasts from the kernel before it to its last kernel, measured by events on the stream; only `read`
    synchronises with the device.

    Args:
        device: where the phases compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._name: str | None = None
        self._since: Any = None
        self._spans: list[tuple[str, Any, Any]] = []

    def enter(self, name: str | None) -> None:
        """Ends the current phase and begins `name`; None begins no phase."""
        if name == self._name:
            return
        mark = self._mark()
        if self._name is not None:
            self._spans.append((self._name, self._since, mark))
        self._name, self._since = name, mark

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attributes the time of its body to `name`."""
        self.enter(name)
        yield
        self.enter(None)

    def _mark(self) -> "float | torch.cuda.Event":
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self, *, per: int = 1) -> dict[str, float]:
        """`timing/<phase>_seconds` since the last call, divided by `per`, and `timing/peak_memory_gib`; resets the phases.

        Memory is the peak of the device's allocator since the last call, or without CUDA the peak of the process so far.
        """
        seconds: dict[str, float] = {}
        for name, begin, end in self._spans:
            if isinstance(begin, float):
                passed = end - begin
            else:
                end.synchronize()
                passed = 1e-3 * begin.elapsed_time(end)
            seconds[name] = seconds.get(name, 0.0) + passed
        found = {f"timing/{name}_seconds": total / per for name, total in seconds.items()}
        self._spans = []
        if self._is_cuda:
            found["timing/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        else:
            found["timing/peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return found
