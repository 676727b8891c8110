"""The loop of supervised training: a stage computes the losses of a batch; the loop shards, steps, logs and saves."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from triptych.checkpoint import Saveable
from triptych.checkpoint.export import model_parts
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at
from triptych.run.session import Run
from triptych.strategy import StepReport, Strategy
from triptych.telemetry.flops import FlopsMeter
from triptych.telemetry.stopwatch import Stopwatch, training_seconds
from triptych.training.guard import DivergenceGuard
from triptych.training.order import ShuffledOrder


class Stage(Protocol):
    """Contract of a training stage: a model, its examples, and their losses.

    Attributes:
        model: the module to train.
        num_examples: size of the training set.
    """

    model: nn.Module
    num_examples: int

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Metrics of this rank's shard of a batch as means over it; `loss` carries the gradient.

        Args:
            model: the module whose forward must be called (`self.model`, possibly wrapped by a strategy).
            indices: indices of the examples.
            step: the optimizer step, for random streams.
            first: index of the first of them in the batch of all ranks; random numbers of an example depend on its index
                in that batch, not on its rank.
            batch_size: number of examples in that batch.
        """
        ...


@dataclass
class LoopConfig:
    """The loop of a stage whose number of steps is set elsewhere.

    Attributes:
        batch_size: examples per optimizer step, over all ranks.
        log_every: steps between two rows of metrics.jsonl.
    """

    batch_size: int = 32
    log_every: int = 20

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise UserError(f"trainer.{item.name} is {getattr(self, item.name)}: it must be 1 or more")


@dataclass
class TrainerConfig(LoopConfig):
    """The loop of one stage.

    Attributes:
        max_steps: optimizer steps.
    """

    max_steps: int = 1000


def fit(
    run: Run,
    stage: Stage,
    strategy: Strategy,
    trainer: TrainerConfig,
    optimizer: OptimizerConfig,
    *,
    columns: tuple[str, ...],
    learning_rate: Callable[[int], float] | None = None,
    parts: Mapping[str, tuple[nn.Module, Mapping[str, Any]]] | None = None,
) -> float:
    """Trains a stage to `trainer.max_steps`, from the newest checkpoint of `run` if there is one.

    Args:
        run: receives checkpoints and metrics.
        stage: model, data and loss.
        strategy: places and steps the model; at the end `stage.model` holds the trained weights on every rank.
        trainer: settings of the loop.
        optimizer: AdamW and its learning-rate curve.
        columns: metrics that the terminal shows.
        learning_rate: rate of each 0-based step, if it is not the optimizer's curve over all steps.
        parts: modules in the stage's model with their sizes, under the names that they have in a model folder.

    Returns:
        Seconds that this invocation spent in the loop.

    Raises:
        UserError: if the batch cannot be divided evenly among the ranks, or training diverges.
    """
    world = run.world
    if trainer.batch_size % world.size:
        raise UserError(
            f"trainer.batch_size is {trainer.batch_size}, which {world.size} processes cannot divide evenly: use a multiple of {world.size}"
        )
    model = strategy.prepare(stage.model, lambda module: build_adamw(module, optimizer))
    rates = learning_rate or (lambda step: learning_rate_at(step, trainer.max_steps, optimizer))
    order = ShuffledOrder(stage.num_examples, seed=run.seed)
    guard = DivergenceGuard(run, strategy, max_skipped=optimizer.max_skipped_steps)
    recorder = _Recorder(run, model, strategy, trainer)
    components: dict[str, Saveable] = {"strategy": strategy, "sums": recorder.sums, "guard": guard}
    first = run.begin(components, columns=columns, exportable=None if parts is None else model_parts(stage.model, parts)) or 0
    recorder.start(first)
    model.train()
    shard = world.shard(trainer.batch_size)
    for step in run.steps(trainer.max_steps, components, first=first + 1, guard=guard, title="training"):
        index = step.number - 1
        batch = order.take(index * trainer.batch_size + shard.start, len(shard))
        with strategy.microbatch(last=True), recorder.microbatch():
            metrics = stage.losses(model, batch, step=index, first=shard.start, batch_size=trainer.batch_size)
            recorder.watch.enter("backward")
            strategy.backward(metrics["loss"] / world.size)
        with recorder.watch.phase("optimizer"):
            report = strategy.step(rates(index))
        guard.count(report, where=f"step {step.number}")
        step.metrics |= recorder.record(step.number, metrics, report)
    recorder.close()
    strategy.gather()
    stage.model.eval()
    return recorder.seconds


class _Recorder:
    """Metrics, timings and utilisation of the loop, averaged over `trainer.log_every` steps."""

    def __init__(self, run: Run, model: nn.Module, strategy: Strategy, trainer: TrainerConfig) -> None:
        self.sums = _Sums(run.world)
        self.watch = Stopwatch(run.device)
        self._world = run.world
        self._trainer = trainer
        self._meter = FlopsMeter(model, run.peak_flops(strategy.precision))
        # The time before the forward pass counts as loading of data.
        self._hook = model.register_forward_pre_hook(lambda module, arguments: self.watch.enter("forward"), prepend=True)
        self._first = self._logged = 0
        self._started = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._started

    def start(self, first: int) -> None:
        """Starts the clock, `first` steps into the training."""
        self._first = self._logged = first
        self._started = time.monotonic()
        self._meter.arm()

    @contextmanager
    def microbatch(self) -> Iterator[None]:
        """Times a micro-batch: `data` until the model is called, then `forward`."""
        self.watch.enter("data")
        yield
        self.watch.enter(None)

    def record(self, step: int, metrics: Mapping[str, Tensor], report: StepReport) -> dict[str, float]:
        """Adds the metrics of one step; returns the row to be logged after `step`, empty if none is due."""
        world, log_every = self._world, self._trainer.log_every
        self.sums.add({key: value.detach() / world.size for key, value in metrics.items()})
        self.sums.add({"skipped_steps": torch.tensor(float(report.skipped) / world.size, device=world.device)})
        if step % log_every and step != self._trainer.max_steps:
            return {}
        # Means over the steps since the last row, fewer than `log_every` in the last one; skipped steps are a count.
        count = (step - 1) % log_every + 1
        row = {key: total / count for key, total in self.sums.reduced().items()}
        row["skipped_steps"] *= count
        row |= {"grad_norm": report.grad_norm}
        row |= {"timing/examples_per_second": (step - self._first) * self._trainer.batch_size / self.seconds}
        timings = self.watch.read(per=step - self._logged)
        row |= timings | self._meter.utilisation(forwards=1, seconds=training_seconds(timings))
        self._logged = step
        self._meter.arm()
        return row

    def close(self) -> None:
        """Removes the hooks from the model."""
        self._hook.remove()
        self._meter.close()


class _Sums:
    """Metrics summed since the last row; a component of the checkpoint, so that a resumed run writes the same rows.

    With the same number of processes each rank restores its own sums; with another number rank 0 takes the total.
    """

    def __init__(self, world: World) -> None:
        self.values: dict[str, Tensor] = {}
        self._world = world

    def add(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            self.values[key] = self.values[key] + value if key in self.values else value

    def reduced(self) -> dict[str, float]:
        """The sums over all ranks, on every rank; resets them to 0."""
        names = sorted(self.values)
        totals = self._world.all_reduce_sum(torch.stack([self.values[name] for name in names]))
        self.values = {}
        return dict(zip(names, totals.tolist(), strict=True))

    def save(self, directory: Path) -> None:
        parts = self._world.gather_objects([{key: float(value) for key, value in self.values.items()}])
        if self._world.is_main:
            (directory / "sums.json").write_text(json.dumps({"ranks": parts}))

    def load(self, directory: Path) -> None:
        parts: list[dict[str, float]] = json.loads((directory / "sums.json").read_text())["ranks"]
        if len(parts) == self._world.size:
            own = parts[self._world.rank]
        else:
            own = {key: sum(part[key] for part in parts) if self._world.is_main else 0.0 for key in parts[0]}
        self.values = {key: torch.tensor(value, device=self._world.device) for key, value in own.items()}
