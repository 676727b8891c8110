"""The loop of supervised training: a stage says what a batch of examples costs; the loop shares, steps, logs and saves."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
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
from triptych.strategy import Strategy
from triptych.telemetry.flops import FlopsMeter
from triptych.telemetry.stopwatch import Stopwatch
from triptych.training.order import ShuffledOrder


class Stage(Protocol):
    """What is trained, and what a batch of examples costs.

    Attributes:
        model: the module to train.
        num_examples: size of the training set.
    """

    model: nn.Module
    num_examples: int

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Metrics of this rank's share of a batch as means over it; `loss` carries the gradient.

        Args:
            model: the module whose forward must be called (`self.model`, possibly wrapped by a strategy).
            indices: which examples.
            step: the optimizer step, for random streams.
            first: place of the first of them in the batch of all ranks: what befalls an example depends on its
                place, not on the rank that holds it.
            batch_size: examples of that batch.
        """
        ...


@dataclass
class LoopConfig:
    """The loop of a stage whose length is said elsewhere.

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
    """Trains a stage to `trainer.max_steps`, from the newest checkpoint of `run` where there is one.

    Args:
        run: where checkpoints and metrics go.
        stage: what is trained.
        strategy: places and steps the model; `stage.model` holds the trained weights in the end, on every rank.
        trainer: the loop.
        optimizer: AdamW and its learning-rate curve.
        columns: metrics that the terminal shows.
        learning_rate: rate of each 0-based step where it is not the optimizer's curve over all steps.

        parts: modules in the stage's model with their sizes, under the names that they have in a model folder.

    Returns:
        Seconds that this invocation spent in the loop.

    Raises:
        UserError: if the batch cannot be shared evenly by the ranks, or the loss stops being finite.
    """
    world = run.world
    if trainer.batch_size % world.size:
        raise UserError(f"trainer.batch_size is {trainer.batch_size}, which {world.size} processes cannot share evenly: choose a multiple")
    model = strategy.prepare(stage.model, lambda module: build_adamw(module, optimizer))
    order = ShuffledOrder(stage.num_examples, seed=run.seed)
    sums = _Sums(world)
    components: dict[str, Saveable] = {"strategy": strategy, "sums": sums}
    exportable = None if parts is None else model_parts(stage.model, parts)
    first = run.begin(components, columns=columns, exportable=exportable) or 0
    started = time.monotonic()
    model.train()
    watch, read = Stopwatch(world.device), first
    meter = FlopsMeter(model, run.peak_flops(strategy.precision))
    called = model.register_forward_pre_hook(lambda module, arguments: watch.enter("forward"), prepend=True)
    skipped = sums.skipped
    run.note_signals()
    for step in range(first, trainer.max_steps):
        share = world.shard(trainer.batch_size)
        mine = order.take(step * trainer.batch_size + share.start, len(share))
        rate = learning_rate_at(step, trainer.max_steps, optimizer) if learning_rate is None else learning_rate(step)
        if step == read:
            meter.arm()
        with strategy.microbatch(last=True):
            watch.enter("data")  # until the model is called
            metrics = stage.losses(model, mine, step=step, first=share.start, batch_size=trainer.batch_size)
            watch.enter("backward")
            strategy.backward(metrics["loss"] / world.size)
        watch.enter("optimizer")
        report = strategy.step(rate)
        watch.enter(None)
        skipped = skipped + 1 if report.skipped else 0
        if skipped >= optimizer.max_skipped_steps:
            raise UserError(
                f"the gradient is not finite for {skipped} steps in a row (step {step + 1}): lower optimizer.learning_rate; "
                "checkpoints are intact"
            )
        sums.add({key: value.detach() / world.size for key, value in metrics.items()})
        sums.add({"skipped_steps": torch.tensor(float(report.skipped) / world.size, device=world.device)})
        done = step + 1
        if done % trainer.log_every == 0 or done == trainer.max_steps:
            count = (done - 1) % trainer.log_every + 1
            sums.reduce()
            row = {key: float(value) / count for key, value in sums.values.items()}
            row["skipped_steps"] *= count
            elapsed = time.monotonic() - started
            row |= {"grad_norm": report.grad_norm, "timing/examples_per_second": (done - first) * trainer.batch_size / elapsed}
            timings = watch.read(per=done - read)
            seconds = sum(timings.get(f"timing/{phase}_seconds", 0.0) for phase in ("forward", "backward", "optimizer"))
            row |= timings | meter.utilisation(forwards=1, seconds=seconds)
            read = done
            run.log(row, step=done)
            sums.values = {}
        run.end_step()
        is_interrupted = run.is_interrupted()
        # After a step that was left out the weights may be broken: the last good checkpoint stays the newest.
        if is_interrupted or (run.is_due(done) and not skipped) or done == trainer.max_steps:
            if skipped and not all(bool(torch.isfinite(parameter).all()) for _, parameter in strategy.full_parameters()):
                raise UserError(f"a weight is not finite after step {done}: lower optimizer.learning_rate; earlier checkpoints are intact")
            sums.skipped = skipped
            run.checkpoint(done, components)
        if is_interrupted:
            run.stop(done)
    run.wait_for_checkpoint()
    called.remove()
    meter.close()
    strategy.gather()
    stage.model.eval()
    return time.monotonic() - started


class _Sums:
    """Metrics summed since the last row; part of a checkpoint, so that a run that goes on writes the same rows.

    As many processes go on with what each of them had; of another number the first takes the sum.
    """

    def __init__(self, world: World) -> None:
        self.values: dict[str, Tensor] = {}
        self.skipped = 0  # steps in a row, at the checkpoint
        self._world = world

    def add(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            self.values[key] = self.values[key] + value if key in self.values else value

    def reduce(self) -> None:
        """Rank 0 holds the sums over all ranks from now on, the others 0."""
        names = sorted(self.values)
        if names:
            totals = self._world.all_reduce_sum(torch.stack([self.values[name] for name in names]))
            self.values = dict(zip(names, totals if self._world.is_main else torch.zeros_like(totals), strict=True))

    def save(self, directory: Path) -> None:
        parts = self._world.gather_objects([{key: float(value) for key, value in self.values.items()}])
        if self._world.is_main:
            (directory / "sums.json").write_text(json.dumps({"skipped": self.skipped, "ranks": parts}))

    def load(self, directory: Path) -> None:
        found = json.loads((directory / "sums.json").read_text())
        parts: list[dict[str, float]] = found["ranks"]
        if len(parts) == self._world.size:
            mine = parts[self._world.rank]
        else:
            mine = {key: sum(part[key] for part in parts) if self._world.is_main else 0.0 for key in parts[0]}
        self.values = {key: torch.tensor(value, device=self._world.device) for key, value in mine.items()}
        self.skipped = found["skipped"]
