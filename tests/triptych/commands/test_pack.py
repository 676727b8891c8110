"""`triptych pack`: a model of another package, found through its entry point, from training to recorded evaluation."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from triptych.commands.pack import register

PROBE = """
from triptych.checkpoint.model_folder import ModelParts
from triptych.checkpoint.packing import ShippedModel

MODEL = ShippedModel(ModelParts("make it", {"encoder": "first"}), package="probe_package", key="model")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with one shipped model, `probe`."""
    site = tmp_path / "site"
    (site / "probe_package" / "weights").mkdir(parents=True)
    (site / "probe_package" / "__init__.py").write_text(PROBE)
    (site / "probe_package-1.dist-info").mkdir()
    (site / "probe_package-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-package\nVersion: 1\n")
    (site / "probe_package-1.dist-info" / "entry_points.txt").write_text("[triptych.shipped_models]\nprobe = probe_package:MODEL\n")
    monkeypatch.syspath_prepend(str(site))
    return site / "probe_package"


def answer(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    parsed = parser.parse_args(["pack", *arguments])
    return str(parsed.answer(parsed))


def test_a_training_is_packed_and_its_evaluation_recorded(package: Path, run: Callable[..., None], tmp_path: Path) -> None:
    run(tmp_path, "training/first", summary={"loss": 0.5})
    trained = nn.Linear(64, 32)
    ModelFolder(tmp_path / "training" / "model", ModelParts("make it", {"encoder": "first"}), hint="").save(
        "encoder", trained, {"width": 64}
    )
    target = package / "weights"
    printed = answer("probe", "--run", str(tmp_path / "training"), str(target))
    size = (target / "encoder.safetensors").stat().st_size
    assert printed == f"{target}: 1 files, {size / 1e6:.1f} MB"
    assert torch.equal(load_file(target / "encoder.safetensors")["weight"], trained.weight.half())

    run(tmp_path, "evaluation", summary={"accuracy": 0.75})
    config = tmp_path / "evaluation" / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"model": {"path": None}}))  # null: the shipped weights
    answer("probe", "--evaluation", str(tmp_path / "evaluation"), str(target))
    record = json.loads((target / "record.json").read_text())
    assert record["made"]["first"]["summary"]["loss"] == 0.5
    assert record["evaluation"]["summary"]["accuracy"] == 0.75
    assert record["files"]["encoder.safetensors"]["bytes"] == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "target"], "one of the arguments --run --evaluation is required"),
        (["probe", "--run", "a", "--evaluation", "b", "target"], "not allowed with argument"),
        (["nonsense", "--run", "a", "target"], "invalid choice: 'nonsense'"),
    ],
)
def test_a_source_and_a_known_model_are_required(
    package: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        answer(*arguments)
    assert message in capsys.readouterr().err
