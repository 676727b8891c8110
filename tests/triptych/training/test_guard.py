"""The divergence guard: counts skipped steps in a row, refuses weights that are not finite."""

from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.strategy import StepReport
from triptych.strategy.ddp import DDPStrategy
from triptych.training.guard import DivergenceGuard

GOOD, BAD = StepReport(1.0, skipped=False), StepReport(float("nan"), skipped=True)


def guard(run: Run, model: nn.Module, max_skipped: int = 3) -> DivergenceGuard:
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig()))
    return DivergenceGuard(run, strategy, max_skipped=max_skipped)


def test_only_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu")) as run:
        found = guard(run, nn.Linear(1, 1))
        for report in (BAD, BAD, GOOD, BAD, BAD):
            found.count(report, where="step 1")
        assert not found.is_sound
        with pytest.raises(UserError, match=r"not finite for 3 optimizer steps in a row at step 6: training has stopped and there is no"):
            found.count(BAD, where="step 6")
        found.count(GOOD, where="step 7")
        assert found.is_sound


def test_the_count_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu")) as run:
        first, second = guard(run, nn.Linear(1, 1)), guard(run, nn.Linear(1, 1))
        first.count(BAD, where="step 1")
        first.save(tmp_path)
        second.load(tmp_path)
        assert second.num_skipped == 1


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu")) as run:
        model = nn.Linear(2, 1)
        found = guard(run, model)
        found.check(1)
        with torch.no_grad():
            model.weight[0, 1] = float("inf")
        with pytest.raises(UserError, match=r"a weight is not finite at step 4: .* lower optimizer.learning_rate"):
            found.check(4)
