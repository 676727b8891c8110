"""The loop of supervised training: gradients that are not finite are skipped, counted, and end the run after several in a row."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.strategy.ddp import DDPStrategy
from triptych.testing import run_distributed
from triptych.training.loop import TrainerConfig, _Sums, fit

STEPS = 8


class BrokenStage:
    """Regression of a line; at some steps the last example of the batch makes the gradient infinite."""

    num_examples = 16

    def __init__(self, bad: set[int]) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self._bad = bad

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        x = torch.tensor([[index / 16, 1.0] for index in indices])
        error = (model(x)[:, 0] - x[:, 0]).square()
        if step in self._bad and first + len(indices) == batch_size:
            error = error * torch.tensor([*[1.0] * (len(indices) - 1), float("inf")])
        return {"loss": error.mean()}


def train(world: World, root: Path, bad: set[int], *, steps: int = STEPS) -> str | None:
    """The error message of the run; None if it succeeds."""
    settings = RunConfig(name="a", output_root=str(root), device="cpu", checkpoint=CheckpointConfig(every_steps=1, keep=99))
    if world.size > 1:  # the run joins the existing process group by the variables of torchrun
        os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.rank))
    stage = BrokenStage(bad)
    optimizer = OptimizerConfig(learning_rate=1e-2, max_skipped_steps=3)
    with Run.open(settings) as run:
        try:
            fit(
                run,
                stage,
                DDPStrategy(run.world, max_grad_norm=1.0),
                TrainerConfig(max_steps=steps, batch_size=4, log_every=2),
                optimizer,
                columns=(),
            )
        except UserError as error:
            return str(error)
    return None


def rows(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (root / "a" / "metrics.jsonl").read_text().splitlines()]


def checkpoints(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (root / "a" / "checkpoints").iterdir())


def alone(root: Path, bad: set[int]) -> str | None:
    return train(World(), root, bad)


def by_two(root: Path, bad: set[int]) -> str | None:
    first, second = run_distributed(train, world_size=2, args=(root, bad))
    assert first == second
    return first


@pytest.mark.faults
@pytest.mark.parametrize("trained", [alone, by_two])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(trained: Callable[[Path, set[int]], str | None], tmp_path: Path) -> None:
    assert trained(tmp_path, {2, 3, 5}) is None
    assert [row["skipped_steps"] for row in rows(tmp_path)] == [0, 2, 1, 0]
    # Steps 3, 4 and 6 (1-based) were skipped and have no checkpoint.
    assert checkpoints(tmp_path) == [1, 2, 5, 7, 8]
    assert rows(tmp_path)[-1]["loss"] < rows(tmp_path)[0]["loss"]
    assert rows(tmp_path)[1]["loss"] is None


def test_the_checkpoint_interval_changes_no_row_of_two_processes(tmp_path: Path) -> None:
    """Sums since the last row stay with their rank, so that they are added in one order."""
    for name, every in (("often", 1), ("never", 99)):
        run_distributed(_three_rows, world_size=2, args=(tmp_path / name, every))
    assert rows(tmp_path / "often") == rows(tmp_path / "never")


def test_sums_return_to_their_ranks_or_are_added(tmp_path: Path) -> None:
    run_distributed(_save_sums, world_size=2, args=(tmp_path,))
    ranks = run_distributed(_load_sums, world_size=2, args=(tmp_path,))
    assert ranks == [{"loss": 1.0}, {"loss": 0.5}]
    assert _load_sums(World(), tmp_path) == {"loss": 1.5}


def _save_sums(world: World, folder: Path) -> None:
    sums = _Sums(world)
    sums.add({"loss": torch.tensor([1.0, 0.5][world.rank])})
    sums.save(folder)


def _load_sums(world: World, folder: Path) -> dict[str, float]:
    sums = _Sums(world)
    sums.load(folder)
    return {key: float(value) for key, value in sums.values.items()}


def _three_rows(world: World, root: Path, every_steps: int) -> None:
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.rank))
    settings = RunConfig(name="a", output_root=str(root), device="cpu", checkpoint=CheckpointConfig(every_steps=every_steps))
    with Run.open(settings) as run:
        trainer = TrainerConfig(max_steps=30, batch_size=4, log_every=10)
        fit(run, BrokenStage(set()), DDPStrategy(run.world, max_grad_norm=1.0), trainer, OptimizerConfig(learning_rate=1e-2), columns=())


@pytest.mark.faults
def test_skipped_steps_in_a_row_end_the_run_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    message = train(World(), tmp_path, {4, 5, 6})
    assert message == (
        "the gradient is not finite for 3 optimizer steps in a row at step 7: training has stopped and the checkpoint of step 4 is intact; "
        "lower optimizer.learning_rate"
    )  # fmt: skip
    assert checkpoints(tmp_path) == [1, 2, 3, 4]
    assert train(World(), tmp_path, set()) is None, "the run resumes from there"
    other = tmp_path / "undisturbed"
    assert train(World(), other, set()) is None
    assert rows(tmp_path) == rows(other)
