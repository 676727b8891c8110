"""Ranks, devices, Slurm variables, and collectives of gloo processes."""

import os

import pytest
import torch

from triptych.distributed import World, read_slurm
from triptych.errors import UserError
from triptych.testing import run_distributed


def test_shards_cover_all_items_once_and_evenly() -> None:
    for count in range(20):
        for size in range(1, 7):
            shards = [list(World(rank=rank, size=size).shard(count)) for rank in range(size)]
            assert [item for shard in shards for item in shard] == list(range(count))
            assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_devices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match="device is 'abacus'"), World.join("abacus"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="0 CUDA devices are visible"), World.join("cuda"):
            pass


def _all(world: World) -> dict[str, object]:
    """Several checks in one start of the processes."""
    results: dict[str, object] = {}
    results["sum"] = world.all_reduce_sum(torch.tensor([1.0, world.rank])).tolist()
    results["gather"] = world.all_gather(torch.tensor([[world.rank, 7]])).tolist()
    part = torch.tensor([float(world.rank), 2.0], requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0]) * (world.rank + 1)
    (world.all_gather(part) * weights).sum().backward()
    assert part.grad is not None
    results["gather_gradient"] = part.grad.tolist()
    results["objects"] = world.gather_objects([world.rank] * (world.rank + 1))
    results["broadcast"] = world.broadcast_object({"from": world.rank})
    try:
        with world.main_first() as is_main:
            if is_main:
                raise UserError("the file is broken")
    except UserError as error:
        results["main_first"] = str(error)
    return results


def test_collectives_of_two_ranks() -> None:
    ranks = run_distributed(_all, world_size=2)
    for rank, results in enumerate(ranks):
        assert results["sum"] == [2.0, 1.0]
        assert results["gather"] == [[0, 7], [1, 7]]
        assert results["gather_gradient"] == [[3.0, 30.0], [300.0, 3000.0]][rank], "summed over the losses of both ranks"
        assert results["objects"] == [0, 1, 1]
        assert results["broadcast"] == {"from": 0}
        assert results["main_first"] == "the file is broken", f"rank {rank} raises the error of rank 0"


SLURM_STEP = {
    "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "2",
    "SLURM_STEP_NODELIST": "no-such-host[07-09]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_JOB_ID": "4321", "SLURM_STEP_ID": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "address"), [("localhost", "localhost"), ("localhost,no-such-host", "localhost"), ("no-such-host[07-09]", "10.0.0.1")]
)
def test_a_slurm_step_sets_the_variables_of_torchrun(monkeypatch: pytest.MonkeyPatch, nodes: str, address: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in (SLURM_STEP | {"SLURM_STEP_NODELIST": nodes}).items():
        monkeypatch.setenv(name, value)
    read_slurm()
    found = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")}
    assert found == {"RANK": "4", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": address}
    first = os.environ["MASTER_PORT"]
    for name in (*found, "MASTER_PORT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    read_slurm()
    assert os.environ["MASTER_PORT"] != first, "two steps on one machine use different ports"


def test_torchrun_takes_precedence_in_a_slurm_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM_STEP | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    with World.join("cpu") as world:
        assert (world.rank, world.size) == (0, 1)


def test_a_number_of_processes_without_a_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the process would take itself for rank 0 and wait for the others for ever."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="WORLD_SIZE is 2 without RANK: start all processes with torchrun or srun, or unset it"),
        World.join("cpu"),
    ):
        pass
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE is 2 without MASTER_ADDR"), World.join("cpu"):
        pass
