"""Real gloo processes: collectives, the strategy's contract, and checkpoints written by several ranks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from triptych.checkpoint import Checkpointer
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.strategy.ddp import DDPStrategy
from triptych.testing import run_distributed


def test_shares_cover_everything_once_and_evenly() -> None:
    for count in range(20):
        for size in range(1, 7):
            shares = [list(World(rank=rank, size=size).share(count)) for rank in range(size)]
            assert [item for share in shares for item in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_devices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match="device is 'abacus'"), World.join("abacus"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="0 CUDA devices are visible"), World.join("cuda"):
            pass


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def _train(world: World, folder: Path | None, steps: int = 10) -> tuple[list[float], list[float], Tensor]:
    """Ten steps on eight examples, each step in micro-batches of uneven number over ranks; losses, norms and weights."""
    strategy = DDPStrategy(world, max_grad_norm=0.5)
    model = _model()
    forward = strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig(weight_decay=0.1)))
    draw = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(steps, 8, 6, generator=draw), torch.randn(steps, 8, 1, generator=draw)
    checkpointer = None if folder is None else Checkpointer(folder, world)
    first = 0
    if checkpointer is not None:
        first = checkpointer.restore({"model": strategy}) or 0
    losses, norms = [], []
    for step in range(first, steps):
        mine = world.share(8)
        # rank 0 cuts its share into pieces of 1, other ranks of 3: the number of micro-batches differs
        width = 1 if world.rank == 0 else 3
        pieces = [mine[start : start + width] for start in range(0, len(mine), width)]
        total = torch.zeros(())
        for place, piece in enumerate(pieces):
            with strategy.microbatch(last=place + 1 == len(pieces)):
                rows = torch.tensor(list(piece))
                loss = (forward(inputs[step][rows]) - targets[step][rows]).square().sum() / 8
                strategy.backward(loss)
            total += loss.detach()
        norms.append(strategy.step(1e-2).grad_norm)
        losses.append(float(world.all_reduce_sum(total)))
        if checkpointer is not None and step + 1 == 5 and first == 0:
            checkpointer.save(5, {"model": strategy})
            break
    weights = torch.cat([parameter.flatten() for _, parameter in strategy.full_parameters()])
    return losses, norms, weights


def _all(world: World, folder: Path) -> dict[str, object]:
    """Several checks in one start of the processes."""
    results: dict[str, object] = {}
    results["sum"] = world.all_reduce_sum(torch.tensor([1.0, world.rank])).tolist()
    results["gather"] = world.all_gather(torch.tensor([[world.rank, 7]])).tolist()
    results["objects"] = world.gather_objects([world.rank] * (world.rank + 1))
    results["broadcast"] = world.broadcast_object({"from": world.rank})
    try:
        with world.main_first() as is_main:
            if is_main:
                raise UserError("the file is broken")
    except UserError as error:
        results["main_first"] = str(error)
    results["uninterrupted"] = _train(world, None)
    results["first_half"] = _train(world, folder)
    results["second_half"] = _train(world, folder)
    return results


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    losses, norms, weights = _train(World(), None)
    ranks = run_distributed(_all, world_size=2, args=(tmp_path / "c",))
    for rank, results in enumerate(ranks):
        assert results["sum"] == [2.0, 1.0]
        assert results["gather"] == [[0, 7], [1, 7]]
        assert results["objects"] == [0, 1, 1]
        assert results["broadcast"] == {"from": 0}
        assert results["main_first"] == "the file is broken", f"rank {rank} must not wait for ever"
        together = results["uninterrupted"]
        # Sums over eight float32 terms in another order, through ten steps.
        assert together[0] == pytest.approx(losses, rel=1e-5)
        assert together[1] == pytest.approx(norms, rel=1e-5)
        torch.testing.assert_close(together[2], weights, rtol=1e-5, atol=1e-6)
        # A run saved after five steps and taken up by new objects is the uninterrupted one to the bit.
        assert results["first_half"][0] + results["second_half"][0] == together[0]
        assert torch.equal(results["second_half"][2], together[2])
    assert torch.equal(ranks[0]["uninterrupted"][2], ranks[1]["uninterrupted"][2])


def test_a_checkpoint_of_two_ranks_goes_on_with_one(tmp_path: Path) -> None:
    run_distributed(_train, world_size=2, args=(tmp_path / "c",))
    losses, _, weights = _train(World(), tmp_path / "c")
    whole_losses, _, whole_weights = _train(World(), None)
    assert losses == pytest.approx(whole_losses[5:], rel=1e-5)
    torch.testing.assert_close(weights, whole_weights, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    model = _model()
    forward = strategy.prepare(model, lambda module: build_adamw(module, OptimizerConfig()))
    before = [parameter.clone() for parameter in model.parameters()]
    with strategy.microbatch(last=True):
        strategy.backward(forward(torch.full((1, 6), float("inf"))).sum())
    assert strategy.step(0.1).skipped
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    with strategy.microbatch(last=True):
        strategy.backward(forward(torch.ones(1, 6)).sum())
    assert not strategy.step(0.1).skipped, "the bad gradient must not linger"


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    strategy.prepare(_model(), lambda module: build_adamw(module, OptimizerConfig()))
    strategy.save(tmp_path)
    other = DDPStrategy(World(), max_grad_norm=1.0)
    other.prepare(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), lambda module: build_adamw(module, OptimizerConfig()))
    with pytest.raises(UserError, match="does not fit this model") as caught:
        other.load(tmp_path)
    assert "\n" not in str(caught.value)
