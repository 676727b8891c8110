"""Test support: several gloo processes on one CPU machine."""

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from triptych.distributed import World

_LOST_PEER = ("Connection closed by peer", "Connection reset by peer")


def run_distributed(
    function: Callable[..., Any], *, world_size: int, args: tuple[Any, ...] = (), timeout_seconds: float = 120.0
) -> list[Any]:
    """Runs `function(world, *args)` in `world_size` gloo processes and returns their results in rank order.

    Rendezvous is through a file, so that no port can clash. `function` must be importable (no
    lambda, no closure), and results must be picklable; tensors come back as copies.

    Raises:
        RuntimeError: with the traceback of the first rank that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_one_rank, args=(function, world_size, folder, args, timeout_seconds), nprocs=world_size, join=True)
        outcomes = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
    failures = [(rank, outcome) for rank, (failed, outcome) in enumerate(outcomes) if failed]
    if failures:
        # A lost connection is the consequence of another rank's failure: report the cause.
        rank, outcome = next((failure for failure in failures if not any(sign in failure[1] for sign in _LOST_PEER)), failures[0])
        raise RuntimeError(f"rank {rank} failed:\n{outcome}")
    return [outcome for _, outcome in outcomes]


def _one_rank(rank: int, function: Callable[..., Any], world_size: int, folder: str, args: tuple[Any, ...], timeout_seconds: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "cpu:gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    outcome: tuple[bool, Any]
    try:
        outcome = (False, function(World(rank=rank, size=world_size, local_rank=rank), *args))
    except Exception:
        outcome = (True, traceback.format_exc())
    torch.save(outcome, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
