"""Model FLOPs utilisation against products counted by hand, and peaks of devices."""

import pytest
import torch
from torch import nn

from triptych.strategy.blocks import recompute_activations
from triptych.telemetry.flops import FlopsMeter, device_peak, peak_flops


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("recomputing", [False, True])
def test_a_step_counts_as_three_forwards_with_and_without_recomputation(recomputing: bool) -> None:
    model = Stack()
    if recomputing:
        recompute_activations(model)
    meter = FlopsMeter(model, peak=1e6)
    model(torch.ones(99, 8)).sum().backward()  # not armed
    assert meter.utilisation(forwards=1, seconds=1.0) == {}
    meter.arm()
    model(torch.ones(5, 8)).sum().backward()
    model(torch.ones(99, 8)).sum().backward()
    by_hand = 3 * (2 * 5 * 8 * 8) * 3  # three products of 5 x 8 x 8, a multiplication and an addition each, in three passes
    assert meter.utilisation(forwards=4, seconds=2.0) == {"timing/model_flops_utilisation": pytest.approx(by_hand * 4 / 2 / 1e6)}
    meter.close()
    meter.arm()
    model(torch.ones(99, 8))
    assert meter.utilisation(forwards=4, seconds=2.0) == {"timing/model_flops_utilisation": pytest.approx(by_hand * 4 / 2 / 1e6)}


def test_without_a_peak_nothing_is_counted() -> None:
    model = Stack()
    meter = FlopsMeter(model, peak=None)
    meter.arm()
    model(torch.ones(5, 8))
    assert meter.utilisation(forwards=1, seconds=1.0) == {}
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", False, 989),
        ("NVIDIA H100 PCIe", "bfloat16", False, 756),
        ("NVIDIA H100 NVL", "float32", True, 417),
        ("NVIDIA GH200 480GB", "float32", False, 67),
        ("NVIDIA H200", "bfloat16", True, 989),
        ("NVIDIA A100-SXM4-80GB", "float32", False, 19.5),
        ("NVIDIA L40S", "bfloat16", False, 362),
        ("NVIDIA L4", "bfloat16", False, 121),
        ("NVIDIA GeForce RTX 4090", "bfloat16", False, 165),
        ("NVIDIA GeForce GT 710", "bfloat16", False, None),
        ("NVIDIA L400", "bfloat16", False, None),
    ],
)
def test_peaks_are_found_by_device_name(name: str, precision: str, tf32: bool, teraflops: float | None) -> None:
    assert peak_flops(name, precision, tf32=tf32) == (None if teraflops is None else teraflops * 1e12)


def test_a_cpu_has_a_peak_only_if_it_is_set() -> None:
    assert device_peak(torch.device("cpu"), "float32", None) is None
    assert device_peak(torch.device("cpu"), "float32", 0.5) == 5e11
