"""One process or one replica per process; the contract that all strategies share is in test_strategies."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.strategy.ddp import DDPStrategy
from triptych.testing import run_distributed


class Tied(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


class Watched(Tied):
    """Keeps whether the last forward was that of a compiled model."""

    is_compiled = False

    def forward(self, tokens: Tensor) -> Tensor:
        self.is_compiled = torch.compiler.is_compiling()
        return super().forward(tokens)


def prepared(world: World, model: nn.Module) -> tuple[DDPStrategy, nn.Module]:
    strategy = DDPStrategy(world, max_grad_norm=10.0)
    return strategy, strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig()))


def step(strategy: DDPStrategy, forward: nn.Module, index: int) -> None:
    with strategy.microbatch(last=True):
        strategy.backward(forward(torch.tensor([index])).square().sum())
    strategy.step(0.1)


def test_a_process_trains_the_given_model_itself() -> None:
    model = Tied()
    strategy, forward = prepared(World(), model)
    assert forward is model
    before = model.head.weight.detach().clone()
    step(strategy, forward, 1)
    assert not torch.equal(model.head.weight, before)
    assert {name for name, _ in strategy.full_parameters()} == {"embedding.weight"}


def test_a_tied_parameter_is_saved_once_and_restored_tied_with_its_moments(tmp_path: Path) -> None:
    strategy, forward = prepared(World(), Tied())
    step(strategy, forward, 1)
    writer = strategy.save(tmp_path)
    assert writer is not None
    step(strategy, forward, 2)
    expected = forward.head.weight.detach().clone()
    writer()  # the state before the second step
    assert set(load_file(tmp_path / "model.safetensors")) == {"embedding.weight"}
    again, resumed = prepared(World(), Tied())
    again.load(tmp_path)
    assert resumed.head.weight is resumed.embedding.weight
    step(again, resumed, 2)
    assert torch.equal(resumed.head.weight, expected)


def test_weights_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    strategy, _ = prepared(World(), Tied())
    writer = strategy.save(tmp_path)
    assert writer is not None
    writer()
    other, _ = prepared(World(), Tied(width=4))
    with pytest.raises(UserError, match=r"model\.safetensors does not fit this model: .*size mismatch") as caught:
        other.load(tmp_path)
    assert "\n" not in str(caught.value)


def summed_gradient(world: World) -> tuple[Tensor, bool]:
    """Gradients of examples 0 to 4; rank 0 has two micro-batches, rank 1 three."""
    model = Tied()
    strategy, forward = prepared(world, model)
    examples = list(world.shard(5))
    for position, index in enumerate(examples):
        with strategy.microbatch(last=position + 1 == len(examples)):
            strategy.backward(forward(torch.tensor([index])).square().sum())
    assert model.head.weight.grad is not None
    return model.head.weight.grad, strategy.save(Path()) is None


def test_gradients_are_sums_over_ranks_and_rank_0_saves() -> None:
    [(expected, _)] = run_distributed(summed_gradient, world_size=1)
    for rank, (found, saves_nothing) in enumerate(run_distributed(summed_gradient, world_size=2)):
        # Five float32 terms in another order.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert saves_nothing == (rank != 0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_trains_as_the_model_itself(tmp_path: Path) -> None:
    weights = []
    for torch_compile in (False, True):
        model = Watched()
        strategy = DDPStrategy(World(), max_grad_norm=10.0, torch_compile=torch_compile)
        forward = strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig()))
        for index in (1, 2):
            step(strategy, forward, index)
        assert model.is_compiled is torch_compile
        folder = tmp_path / str(torch_compile)
        folder.mkdir()
        write = strategy.save(folder)
        assert write is not None
        write()
        weights.append(load_file(folder / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()  # no prefix of the compiled module
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-6, rtol=0)
