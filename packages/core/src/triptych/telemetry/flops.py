"""Model FLOPs utilisation: operations that the model requires, as a fraction of the device's peak."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Dense matrix products, in 1e12 floating-point operations per second: bfloat16, float32 as TF32, float32. From the
# manufacturers' data sheets; the first entry whose words are all in the device's name applies.
_PEAKS: dict[str, tuple[float, float, float]] = {
    "B200": (2250.0, 1125.0, 75.0),
    "GH200": (989.0, 494.0, 67.0),
    "H200": (989.0, 494.0, 67.0),
    "H100 NVL": (835.0, 417.0, 60.0),
    "H100 PCIe": (756.0, 378.0, 51.0),
    "H100": (989.0, 494.0, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "RTX 4090": (165.0, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "MI300X": (1307.0, 653.0, 163.0),
}


def peak_flops(device_name: str, precision: str, *, tf32: bool) -> float | None:
    """Operations per second of a device's dense matrix products; None for an unknown device.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        precision: `bfloat16` or `float32`.
        tf32: whether products of float32 may round their factors (`torch.set_float32_matmul_precision`).
    """
    words = device_name.replace("-", " ").split()
    known = next((peaks for name, peaks in _PEAKS.items() if all(word in words for word in name.split())), None)
    if known is None:
        return None
    return 1e12 * known[0 if precision == "bfloat16" else 1 if tf32 else 2]


class FlopsMeter:
    """Counts the FLOPs of matrix products in a sampled forward, for the fraction of the device's peak that was used.

    A step counts as three forwards, the usual estimate with the backward (PaLM, arXiv 2204.02311, appendix B): activations
    that are recomputed to save memory do not count.

    Args:
        model: the module whose forward is called, possibly wrapped by a strategy.
        peak: operations per second of this rank's device; None disables counting.
    """

    def __init__(self, model: nn.Module, peak: float | None) -> None:
        self._peak = peak
        self._counter: Any = None
        self._is_armed = False
        self._flops = 0.0
        self._handles = [] if peak is None else [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def arm(self) -> None:
        """Counts the next forward."""
        self._is_armed = self._peak is not None

    def utilisation(self, *, forwards: float, seconds: float) -> dict[str, float]:
        """`timing/model_flops_utilisation` for `forwards` forwards like the counted one in `seconds`; empty without a peak."""
        if self._peak is None or not self._flops or seconds <= 0:
            return {}
        return {"timing/model_flops_utilisation": 3 * self._flops * forwards / (seconds * self._peak)}

    def close(self) -> None:
        """Removes the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        if self._is_armed:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._flops = float(self._counter.get_total_flops())
            self._counter, self._is_armed = None, False


def device_peak(device: torch.device, precision: str, teraflops: float | None) -> float | None:
    """Peak operations per second: `teraflops` if set, else from `peak_flops`; None on CPU unless `teraflops` is set."""
    if teraflops is not None:
        return 1e12 * teraflops
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision, tf32=torch.get_float32_matmul_precision() != "highest")
