"""Every factory in a config whose result holds parameters takes the device: built on meta, all tensors are on meta."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from projects import ROOT

# Groups whose options hold parameters, or process the outputs of such a model.
GROUPS = ("policy", "generator", "model", "video", "reward", "features")
OPTIONS = [path for group in GROUPS for path in sorted(ROOT.glob(f"configs/*/{group}/*.yaml"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


def build(path: Path, device: str) -> Any:
    """Instantiates an option with the weights that the packages ship."""
    option = yaml.safe_load(path.read_text())
    if "???" in option.values() or str(option.get("path")).startswith("outputs/"):
        pytest.skip("needs a model that is not in this repository")
    if isinstance(option.get("path"), dict):
        pytest.skip("needs weights of an optional package: make test-real")
    whole = OmegaConf.create({"seed": 0, "generator": {"path": None}, "model": {"path": None}, "option": option})
    OmegaConf.resolve(whole)
    return instantiate(whole.option, device=device)


def tensors(value: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of all modules in an object, at any depth, with their paths.

    Constants that a model keeps as plain tensors are moved to the device of its inputs at use.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
    parts = vars(value) if hasattr(value, "__dict__") else value if isinstance(value, dict) else {}
    if isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    for name, part in parts.items():
        if not inspect.ismodule(part) and not isinstance(part, type):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in tensors(part, seen))


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_a_factory_takes_the_device_and_puts_all_tensors_there(path: Path) -> None:
    assert "device" in inspect.signature(get_method(OmegaConf.load(path)._target_)).parameters
    built = build(path, "meta")
    elsewhere = {name: str(tensor.device) for name, tensor in tensors(built, set()) if tensor.numel() > 1 and not tensor.is_meta}
    assert not elsewhere


def test_every_command_passes_the_device_to_factories_with_parameters() -> None:
    found = 0
    for path in sorted(ROOT.glob("packages/*/src/*/commands/*.py")):
        for line in path.read_text().splitlines():
            if re.search(rf"build\(config\.({'|'.join(GROUPS)})[,)]", line):
                found += 1
                assert "device=" in line, f"{path.name}: {line.strip()}"
    assert found > 8


def test_nested_tensors_are_found() -> None:
    class Holder:
        def __init__(self) -> None:
            self.parts = {"inner": [nn.Linear(2, 2)]}

    assert {name for name, _ in tensors(Holder(), set())} >= {"parts.inner.0.weight", "parts.inner.0.bias"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_everything_is_on_the_gpu(path: Path) -> None:
    for name, tensor in tensors(build(path, "cuda"), set()):
        assert tensor.is_cuda or tensor.numel() <= 1, name
