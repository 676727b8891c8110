"""Staged training: a stage writes its parts, is skipped when finished, and reports its last metrics or its findings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from triptych.checkpoint.model_folder import ModelParts
from triptych.distributed import World
from triptych.optim import OptimizerConfig
from triptych.report import Chart
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.strategy.ddp import DDPStrategy
from triptych.training.loop import TrainerConfig
from triptych.training.stages import StageFindings, StagePlan, model_sizes, train_stage

PARTS = ModelParts("make it", {"line": "line"})


class Line:
    """Regression of a line."""

    num_examples = 8

    def __init__(self) -> None:
        self.model: nn.Module = nn.Linear(1, 1)

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        x = torch.tensor([[index / 8] for index in indices])
        return {"loss": (model(x) - 2 * x).square().mean()}


def train(root: Path, built: list[int], **changes: object) -> None:
    def build() -> StagePlan:
        built.append(1)
        line = Line()
        trainer = TrainerConfig(batch_size=4, log_every=2, max_steps=4)
        options = {"columns": ("loss",), "charts": [Chart("Loss", {"loss": "loss"})], **changes}
        return StagePlan(line, {"line": (line.model, {"inputs": 1})}, trainer, OptimizerConfig(), **options)  # type: ignore[arg-type]

    with Run.open(RunConfig(name="all/line", output_root=str(root), device="cpu", seed=5)) as run:
        folder = PARTS.folder(root / "all" / "model")
        train_stage(run, "line", build, folder, lambda world, norm: DDPStrategy(world, max_grad_norm=norm), max_steps=4)


def test_a_stage_writes_its_parts_and_is_trained_once(tmp_path: Path) -> None:
    built: list[int] = []
    train(tmp_path, built)
    folder = PARTS.folder(tmp_path / "all" / "model")
    assert folder.sizes() == {"line": {"inputs": 1}}
    written = folder.hash("line")
    train(tmp_path, built)
    assert (len(built), folder.hash("line")) == (1, written), "a finished stage is skipped without building it"
    summary = json.loads((tmp_path / "all" / "line" / "summary.json").read_text())
    last = json.loads((tmp_path / "all" / "line" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {key: summary[key] for key in ("stage", "seed", "steps", "world_size")} == {
        "stage": "line",
        "seed": 5,
        "steps": 4,
        "world_size": World().size,
    }
    assert summary["loss"] == last["loss"]
    page = (tmp_path / "all" / "line" / "report.html").read_text()
    assert f"<b>{last['loss']:.4g}</b><span>loss</span>" in page
    assert "<title>all: line</title>" in page


def test_a_stage_whose_part_is_gone_is_trained_again(tmp_path: Path) -> None:
    built: list[int] = []
    train(tmp_path, built)
    (tmp_path / "all" / "model" / "line.safetensors").unlink()
    train(tmp_path, built)
    assert len(built) == 2
    assert PARTS.folder(tmp_path / "all" / "model").has("line")


def test_findings_join_the_summary_and_replace_the_headline(tmp_path: Path) -> None:
    train(tmp_path, [], finish=lambda: StageFindings({"score": 0.5}, {"score": "50 %"}))
    assert json.loads((tmp_path / "all" / "line" / "summary.json").read_text())["score"] == 0.5
    page = (tmp_path / "all" / "line" / "report.html").read_text()
    assert "<b>50 %</b>" in page
    assert "<span>loss</span>" not in page


def test_the_sizes_of_a_node_are_its_arguments() -> None:
    assert model_sizes({"_target_": "torch.nn.Linear", "_partial_": True, "width": 3}) == {"width": 3}
