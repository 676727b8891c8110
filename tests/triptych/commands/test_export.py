"""`triptych export`: arguments and answer; the exported files have their tests with `triptych.checkpoint.export`."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.checkpoint.export import model_parts
from triptych.commands.export import register
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.strategy.ddp import DDPStrategy


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 1 and 2, in which every weight equals the step."""
    model = nn.Linear(2, 1)
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu")) as run:
        strategy = DDPStrategy(run.world, max_grad_norm=1.0)
        strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig()))
        run.begin({"strategy": strategy}, exportable=model_parts(model, {"line": (model, {"width": 2})}))
        for step in (1, 2):
            nn.init.constant_(model.weight, step)
            run.checkpoint(step, {"strategy": strategy})
    return tmp_path / "a"


def answer(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    parsed = parser.parse_args(["export", *arguments])
    return str(parsed.answer(parsed))


def weight(folder: Path) -> torch.Tensor:
    return load_file(folder / "line.safetensors")["weight"]


def test_the_newest_step_is_exported_below_the_run_by_default(trained: Path) -> None:
    assert answer(str(trained)) == f"a  step 2\nmodel  {trained / 'export'}"
    assert torch.equal(weight(trained / "export"), torch.full((1, 2), 2.0))


def test_step_and_output_can_be_chosen(trained: Path, tmp_path: Path) -> None:
    assert answer(str(trained), "--step", "1", "--output", str(tmp_path / "out")) == f"a  step 1\nmodel  {tmp_path / 'out'}"
    assert torch.equal(weight(tmp_path / "out"), torch.full((1, 2), 1.0))
    with pytest.raises(UserError, match="--step is 3 but .* holds checkpoints of steps 1, 2: choose one of them"):
        answer(str(trained), "--step", "3")
