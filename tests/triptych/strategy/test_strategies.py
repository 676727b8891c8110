"""Contract of every parallelism: several ranks compute what one process computes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from triptych.checkpoint.checkpointer import Checkpointer
from triptych.checkpoint.export import read_weights, state_shapes
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.strategy import Strategy
from triptych.strategy.blocks import copy_without_weights, recompute_activations, repeated_blocks
from triptych.strategy.ddp import DDPStrategy
from triptych.strategy.fsdp import FSDPStrategy
from triptych.testing import run_distributed

STEPS = 10


def _deepspeed(world: World, **settings: Any) -> Strategy:
    from triptych.strategy.deepspeed import DeepSpeedStrategy

    return DeepSpeedStrategy(world, **settings)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "ddp": DDPStrategy,
    "ddp_recomputing": functools.partial(DDPStrategy, activation_checkpointing=True),
    "deepspeed_zero1": functools.partial(_deepspeed, stage=1),
    "deepspeed_zero2": functools.partial(_deepspeed, stage=2),
    "deepspeed_zero3": functools.partial(_deepspeed, stage=3, activation_checkpointing=True),
    "deepspeed_offloading": functools.partial(_deepspeed, stage=3, cpu_offload=True),
    "fsdp": FSDPStrategy,
    "fsdp_hybrid": functools.partial(FSDPStrategy, replicas=2),
    "fsdp_offloading": functools.partial(FSDPStrategy, cpu_offload=True, activation_checkpointing=True, reshard_after_forward=False),
}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.tanh(self.inner(self.norm(x))))


class Tied(nn.Module):
    """Embedding and head are one parameter, blocks repeat, a buffer is saved, and one layer is frozen."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, width)
        self.frozen = nn.Linear(width, width)
        self.frozen.requires_grad_(False)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(0.7))
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.frozen(self.embedding(tokens)) * self.scale * self.gain
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _data() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(1)
    return torch.randint(11, (STEPS, 8), generator=noise), torch.randint(11, (STEPS, 8), generator=noise)


def train(world: World, name: str, folder: Path | None = None, until: int = STEPS, precision: str = "float32") -> dict[str, Any]:
    """Steps on eight examples each, in several micro-batches per rank; from the newest checkpoint of `folder`, if any."""
    strategy = STRATEGIES[name](world, max_grad_norm=0.5, precision=precision)
    given = Tied()
    forward = strategy.prepare(given, lambda module: build_adamw(module, OptimizerConfig(weight_decay=0.1)))
    checkpointer = None if folder is None else Checkpointer(folder, world, asynchronous=True)
    first = 0 if checkpointer is None else checkpointer.restore({"model": strategy}) or 0
    tokens, targets = _data()
    losses, norms = [], []
    for step in range(first, until):
        own = list(world.shard(8))
        # Ranks that only synchronise in the last micro-batch may have different numbers of micro-batches.
        width = 1 if world.rank == 0 and not strategy.syncs_in_forward else 2
        pieces = [own[start : start + width] for start in range(0, len(own), width)]
        total = torch.zeros(())
        for index, rows in enumerate(pieces):
            with strategy.microbatch(last=index + 1 == len(pieces)):
                loss = nn.functional.cross_entropy(forward(tokens[step][rows]), targets[step][rows], reduction="sum") / 8
                strategy.backward(loss)
            total += loss.detach()
        norms.append(strategy.step(1e-2).grad_norm)
        losses.append(float(world.all_reduce_sum(total)))
    if checkpointer is not None:
        checkpointer.save(until, {"model": strategy})
        checkpointer.wait()
    streamed = {key: value.clone() for key, value in strategy.full_parameters()}
    strategy.gather()
    return {
        "losses": losses,
        "norms": norms,
        "streamed": streamed,
        "gathered": {key: value.detach().clone() for key, value in given.named_parameters()},
        "state": {key: value.detach().clone() for key, value in given.state_dict().items()},
        "tied": given.head.weight is given.embedding.weight,
    }


def bad_gradient(world: World, name: str) -> dict[str, Any]:
    """A step whose gradient is not finite on the last rank only, and a finite one after it."""
    strategy = STRATEGIES[name](world, max_grad_norm=0.5)
    forward = strategy.prepare(Tied(), lambda module: build_adamw(module, OptimizerConfig(weight_decay=0.1)))
    before = {key: value.clone() for key, value in strategy.full_parameters()}
    tokens, targets = _data()
    reports, after = [], []
    for factor in (float("inf") if world.rank == world.size - 1 else 1.0, 1.0):
        with strategy.microbatch(last=True):
            strategy.backward(factor * nn.functional.cross_entropy(forward(tokens[0]), targets[0]))
        reports.append(strategy.step(1e-2).skipped)
        after.append({key: value.clone() for key, value in strategy.full_parameters()})
    return {"skipped": reports, "unchanged": [all(torch.equal(before[key], now[key]) for key in before) for now in after]}


def written_late(world: World, name: str, folder: Path) -> dict[str, bool]:
    """A state that is copied after one step and written after the next: the first is restored."""
    tokens, targets = _data()
    optimizer = OptimizerConfig(weight_decay=0.1)

    def step(strategy: Strategy, forward: nn.Module, index: int) -> dict[str, Tensor]:
        with strategy.microbatch(last=True):
            strategy.backward(nn.functional.cross_entropy(forward(tokens[index]), targets[index]) / world.size)
        strategy.step(1e-2)
        return {key: value.clone() for key, value in strategy.full_parameters()}

    strategy = STRATEGIES[name](world, max_grad_norm=0.5)
    forward = strategy.prepare(Tied(), lambda module: build_adamw(module, optimizer))
    first = step(strategy, forward, 0)
    if world.is_main:
        folder.mkdir(parents=True)
    world.barrier()
    writer = strategy.save(folder)
    second = step(strategy, forward, 1)
    if writer is not None:
        writer()
    world.barrier()
    again = STRATEGIES[name](world, max_grad_norm=0.5)
    forward = again.prepare(Tied(), lambda module: build_adamw(module, optimizer))
    again.load(folder)
    loaded = {key: value.clone() for key, value in again.full_parameters()}
    repeated = step(again, forward, 1)
    return {
        "weights": all(torch.equal(loaded[key], value) for key, value in first.items()),
        "moments": all(torch.equal(repeated[key], value) for key, value in second.items()),
        "moved": not all(torch.equal(first[key], value) for key, value in second.items()),
    }


def shape_error(world: World, name: str, folder: Path) -> str:
    """The message if the newest checkpoint of `folder` is of a model of another width."""
    strategy = STRATEGIES[name](world, max_grad_norm=0.5)
    strategy.prepare(Tied(width=4), lambda module: build_adamw(module, OptimizerConfig()))
    with pytest.raises(UserError) as caught:
        Checkpointer(folder, world).restore({"model": strategy})
    return str(caught.value)


def first_halves(world: World, names: list[str], folder: Path) -> None:
    """Five steps in one process."""
    for name in names:
        train(world, ALONE.get(name, name), folder / name / "from_one", until=5)


def together(world: World, names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """All checks that need two ranks, in one start of the processes."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = {"whole": train(world, name)}
        train(world, name, folder / name / "twice", until=5)
        results[name] |= {
            "second_half": train(world, name, folder / name / "twice"),
            "from_one": train(world, name, folder / name / "from_one"),
            "bad": bad_gradient(world, name),
            "written_late": written_late(world, name, folder / name / "late"),
            "shape_error": shape_error(world, name, folder / name / "twice"),
            "low_precision": train(world, name, until=3, precision="bfloat16")["losses"],
        }
        train(world, name, folder / name / "to_one", until=5)
    return results


def second_halves(world: World, names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """The other five steps in one process."""
    return {name: train(world, ALONE.get(name, name), folder / name / "to_one") for name in names}


def _agree(found: dict[str, Any], expected: dict[str, Any], *, steps: int = 0) -> None:
    # Float32 sums over eight terms in another order, through ten steps of AdamW.
    assert found["losses"] == pytest.approx(expected["losses"][steps:], rel=2e-5)
    assert found["norms"] == pytest.approx(expected["norms"][steps:], rel=2e-4)
    for key, value in expected["gathered"].items():
        torch.testing.assert_close(found["gathered"][key], value, rtol=2e-4, atol=2e-5)
        assert torch.equal(found["streamed"][key], found["gathered"][key]), key


def plain() -> dict[str, Any]:
    """The same training with torch alone."""
    model = Tied()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    losses, norms = [], []
    for tokens, targets in zip(*_data(), strict=True):
        loss = nn.functional.cross_entropy(model(tokens), targets)
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms, "gathered": dict(model.named_parameters())}


@pytest.mark.parametrize("family", [pytest.param("deepspeed", marks=pytest.mark.deepspeed), "torch"])
def test_two_ranks_equal_one_process_and_resume_exactly(family: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    if family == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    names = [name for name in STRATEGIES if name.startswith("deepspeed") == (family == "deepspeed")]
    expected = plain()
    run_distributed(first_halves, world_size=1, args=(names, tmp_path))
    ranks = run_distributed(together, world_size=2, args=(names, tmp_path))
    [resumed] = run_distributed(second_halves, world_size=1, args=(names, tmp_path))
    for name in names:
        for rank, results in enumerate(found[name] for found in ranks):
            with subtests.test(name=name, rank=rank):
                whole, second_half = results["whole"], results["second_half"]
                _agree(whole, expected)
                assert whole["tied"]
                _agree(results["from_one"], expected, steps=5)
                assert second_half["losses"] == whole["losses"][5:], "bit-identical with the same number of ranks"
                assert all(torch.equal(second_half["gathered"][key], value) for key, value in whole["gathered"].items())
                assert all(torch.equal(ranks[0][name]["whole"]["gathered"][key], value) for key, value in whole["gathered"].items())
                assert results["bad"] == {"skipped": [True, False], "unchanged": [True, False]}
                assert results["written_late"] == {"weights": True, "moments": True, "moved": True}
                assert "does not fit this model" in results["shape_error"]
                assert "\n" not in results["shape_error"]
                assert results["low_precision"] == pytest.approx(expected["losses"][:3], rel=2e-2)
                assert results["low_precision"] != pytest.approx(expected["losses"][:3], rel=1e-5), "the forward did not run in bfloat16"
        with subtests.test(name=name, resumed="one process"):
            _agree(resumed[name], expected, steps=5)
        with subtests.test(name=name, read="whole"):
            found_weights = read_weights(tmp_path / name / "twice" / f"step_{STEPS:08d}" / "model", state_shapes(Tied()))
            state = ranks[0][name]["second_half"]["state"]
            assert set(found_weights) == set(state) - {"head.weight"}
            assert all(torch.equal(value, state[key]) for key, value in found_weights.items())
            with pytest.raises(UserError, match="does not hold the model"):
                read_weights(tmp_path / name / "twice" / f"step_{STEPS:08d}" / "model", state_shapes(Tied(width=4)))


# A group of two replicas needs two ranks.
ALONE = {"fsdp_hybrid": "fsdp"}


def test_blocks_are_the_outermost_lists_of_modules_of_one_type() -> None:
    heads = nn.ModuleList([nn.Linear(2, 2), nn.Tanh()])  # two types
    values = nn.ModuleList([nn.ParameterList([nn.Parameter(torch.ones(2))])])  # no forward
    model = nn.ModuleDict({"tied": Tied(), "heads": heads, "silent": values})
    assert repeated_blocks(model) == list(model["tied"].blocks)

    class Outer(Block):
        def __init__(self) -> None:
            super().__init__(2)
            self.inner_blocks = nn.ModuleList(Block(2) for _ in range(2))

    nested = nn.ModuleList(Outer() for _ in range(2))
    assert repeated_blocks(nn.Sequential(nested)) == list(nested)


def test_a_copy_without_weights_keeps_ties_and_buffers() -> None:
    model = Tied()
    copied, sources = copy_without_weights(model)
    assert all(parameter.is_meta for parameter in copied.parameters())
    assert copied.head.weight is copied.embedding.weight
    assert not copied.frozen.weight.requires_grad
    assert torch.equal(copied.scale, model.scale)
    assert copied.scale is not model.scale
    assert sources[id(copied.head.weight)].data_ptr() == model.embedding.weight.data_ptr()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DDPStrategy(World(), max_grad_norm=1.0, precision="float8"), "strategy.precision is 'float8'"),
        (lambda: FSDPStrategy(World(), max_grad_norm=1.0, replicas=2), "strategy.replicas is 2"),
        (lambda: recompute_activations(nn.Linear(2, 2)), "no repeated blocks"),
    ],
)
def test_invalid_settings_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
