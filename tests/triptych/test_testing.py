"""`run_distributed`: results in rank order, real collectives, and the error of the rank that caused it."""

from typing import Any

import pytest
import torch

from triptych.distributed import World
from triptych.testing import run_distributed


def report(world: World, offset: float) -> dict[str, Any]:
    total = world.all_reduce_sum(torch.tensor([world.rank + offset]))
    return {"rank": world.rank, "size": world.size, "local_rank": world.local_rank, "total": total}


def fail_on_rank_1(world: World) -> None:
    if world.rank == 1:
        raise ValueError("the batch is empty")
    world.barrier()  # fails with a closed connection


def test_results_come_in_rank_order() -> None:
    results = run_distributed(report, world_size=2, args=(0.5,))
    assert [result["rank"] for result in results] == [0, 1]
    assert all((result["size"], result["local_rank"]) == (2, result["rank"]) for result in results)
    assert all(torch.equal(result["total"], torch.tensor([2.0])) for result in results)  # (0 + .5) + (1 + .5)


def test_the_error_of_the_failing_rank_is_raised_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"^rank 1 failed:\nTraceback") as caught:
        run_distributed(fail_on_rank_1, world_size=2)
    assert "ValueError: the batch is empty" in str(caught.value)
    assert "fail_on_rank_1" in str(caught.value)
