"""Staged training: the models of a panel trained one by one, each stage a run of its own below the training's name."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder
from triptych.distributed import World
from triptych.optim import OptimizerConfig
from triptych.report import Chart, ReportConfig
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import derive_seed
from triptych.strategy import Strategy
from triptych.telemetry.logging import get_logger
from triptych.telemetry.tracking.jsonl import read_rows
from triptych.training.loop import Stage, TrainerConfig, fit

_logger = get_logger("train")


@dataclass(frozen=True)
class StageFindings:
    """Results of a trained stage beyond its metrics.

    Attributes:
        summary: added to `summary.json`.
        headline: label -> formatted value, on the page; empty for the last values of the stage's columns.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    headline: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StagePlan:
    """A stage ready to be trained.

    Attributes:
        stage: model, data and loss.
        parts: the trained modules and their sizes, by the names that they have in a model folder.
        trainer: settings of the loop.
        optimizer: AdamW and its learning-rate curve.
        columns: metrics that the terminal shows.
        charts: curves of the report page.
        learning_rate: rate of each 0-based step, if it is not the optimizer's curve.
        finish: evaluates the trained stage; called on rank 0.
    """

    stage: Stage
    parts: Mapping[str, tuple[nn.Module, Mapping[str, Any]]]
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    columns: tuple[str, ...]
    charts: Sequence[Chart]
    learning_rate: Callable[[int], float] | None = None
    finish: Callable[[], StageFindings] = StageFindings


def model_sizes(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a config's choice node, which a model folder keeps as the sizes of a part.

    Example:
        >>> model_sizes({"_target_": "torch.nn.Linear", "in_features": 4})
        {'in_features': 4}
    """
    return {key: value for key, value in node.items() if not key.startswith("_")}


@contextmanager
def training_processes(config: RunConfig) -> Iterator[World]:
    """Joins the processes of all stages once: a second process group on the same store would read the addresses of the first."""
    # FSDP warns of outputs that are views, because writing into them would be lost; the stages do not write into outputs.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    with World.join(config.device, timeout_seconds=config.timeout_seconds) as world:
        yield world


def train_stage(
    run: Run,
    name: str,
    build: Callable[[], StagePlan],
    folder: ModelFolder,
    strategy: Callable[[World, float], Strategy],
    *,
    max_steps: int,
) -> None:
    """Trains one stage, writes its parts into `folder` and finishes its run; a finished stage is skipped.

    Args:
        run: the open run of the stage.
        name: name of the stage; seeds the initial weights.
        build: builds model, data and loss.
        folder: the model folder of all stages.
        strategy: builds the strategy from the processes and the largest gradient norm.
        max_steps: optimizer steps.
    """
    _logger.info("stage %s", name)
    if run.is_finished(max_steps) and all(folder.has(part) for part in folder.parts.made_by(name)):
        _logger.info("finished           %s", run.directory)
        return
    # Layers are initialised from torch's global random stream.
    torch.manual_seed(derive_seed(run.seed, name))
    plan = build()
    seconds = fit(
        run,
        plan.stage,
        strategy(run.world, plan.optimizer.max_grad_norm),
        plan.trainer,
        plan.optimizer,
        columns=plan.columns,
        learning_rate=plan.learning_rate,
        parts=plan.parts,
    )
    if run.world.is_main:
        for part, (module, sizes) in plan.parts.items():
            folder.save(part, module, sizes)
        _logger.info("report             %s", _finish(run, name, plan, seconds))
    run.world.barrier()


def _finish(run: Run, name: str, plan: StagePlan, seconds: float) -> Path:
    last = read_rows(run.directory / "metrics.jsonl")[-1]
    summary = {"stage": name, "seed": run.seed, "steps": plan.trainer.max_steps, "seconds": seconds, "world_size": run.world.size}
    summary |= {key: value for key, value in last.items() if key != "step"}
    findings = plan.finish()
    headline = findings.headline or {key: f"{last[key]:.4g}" for key in plan.columns if key in last}
    page = ReportConfig(title=f"{run.directory.parent.name}: {name}", headline=dict(headline), charts=plan.charts)
    return run.finish({**summary, **findings.summary}, report=page)
