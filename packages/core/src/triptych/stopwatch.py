"""Where the time of a step goes."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds of named phases.

    On CUDA a phase lasts from the kernel before it to its last kernel, as events on the stream tell; nothing waits for the
    device before `read`.

    Args:
        device: where the phases compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what happens inside to `name`."""
        if self._is_cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def read(self, *, per: int = 1) -> dict[str, float]:
        """`timing/<phase>_seconds` since the last reading, divided by `per`, and `timing/peak_memory_gib`; starts anew.

        Memory is what the device's allocator held at most, or without CUDA what the process held at most so far.
        """
        for name, begin, end in self._events:
            end.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + 1e-3 * begin.elapsed_time(end)
        found = {f"timing/{name}_seconds": seconds / per for name, seconds in self._seconds.items()}
        self._seconds, self._events = {}, []
        if self._is_cuda:
            found["timing/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        else:
            found["timing/peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return found
