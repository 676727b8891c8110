"""The processes of one run: ranks, devices, process groups and collectives."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from triptych.errors import UserError

# The group of `World.background_group`: one per process group, shared by all consecutive runs in it.
_background: list[dist.ProcessGroup] = []


@dataclass(frozen=True)
class World:
    """Rank and device of one process among all processes of a run.

    Attributes:
        rank: index of this process, 0 to size - 1. Rank 0 writes files and logs.
        size: number of processes.
        local_rank: index among the processes of this machine; picks the CUDA device.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    @contextmanager
    def join(cls, device: str = "auto", *, timeout_seconds: float = 1800.0) -> Iterator["World"]:
        """Joins the process group that torchrun or a Slurm step describes in the environment, or runs as a single process.

        The group is left when the context ends, also after an exception.

        Args:
            device: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:<index>`.
            timeout_seconds: how long a collective waits for a missing rank.

        Raises:
            UserError: if `device` names CUDA and there is none, or is no device at all, or the environment has a number of
                processes without the rank of this one.
        """
        read_slurm()
        needed = ["RANK"] if dist.is_initialized() else ["RANK", "MASTER_ADDR", "MASTER_PORT"]
        missing = [name for name in needed if name not in os.environ]
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and missing:
            raise UserError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} without {missing[0]}: start all processes with torchrun or srun, or unset it"
            )
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        resolved = _resolve_device(device, local_rank)
        if resolved.type == "cuda":
            torch.cuda.set_device(resolved)
        # DeepSpeed reads this at its import, which is later; without it DeepSpeed probes for an accelerator and warns.
        os.environ.setdefault("DS_ACCELERATOR", resolved.type)
        world = cls(rank=rank, size=size, local_rank=local_rank, device=resolved)
        is_outermost = not dist.is_initialized()
        if size > 1 and is_outermost:
            dist.init_process_group(_backend(resolved), timeout=timedelta(seconds=timeout_seconds))
        try:
            yield world
        finally:
            if is_outermost and dist.is_initialized():  # `form_group` may have made one in a single-process run
                dist.destroy_process_group()
                _background.clear()

    @property
    def is_main(self) -> bool:
        """True on the rank that writes files and logs."""
        return self.rank == 0

    def form_group(self) -> None:
        """Makes a process group of one process where there is none, for libraries that require a group."""
        if not dist.is_initialized():
            dist.init_process_group(_backend(self.device), store=HashStore(), rank=0, world_size=1)

    @property
    def background_group(self) -> dist.ProcessGroup | None:
        """A gloo group of all ranks for background threads, whose messages must not mix with the default group's; first use is collective.

        None where there is no process group.
        """
        if not dist.is_initialized():
            return None
        if not _background:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            _background.append(group)
        return _background[0]

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        if self.size > 1:
            dist.barrier()

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over ranks, as a new tensor of the same shape and dtype."""
        total = tensor.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def all_gather(self, tensor: Tensor) -> Tensor:
        """`tensor` of every rank, concatenated along dimension 0 in rank order; all ranks pass one shape.

        Differentiable: the backward sums the gradients of all ranks' losses with respect to a rank's part and returns them to it.
        """
        if self.size == 1:
            return tensor
        gathered: Tensor = _AllGather.apply(self, tensor)  # type: ignore[no-untyped-call, unused-ignore]  # typed since torch 2.15
        return gathered

    def gather_objects(self, objects: list[Any], *, group: dist.ProcessGroup | None = None) -> list[Any]:
        """The lists of all ranks joined in rank order, on every rank. Objects are pickled between processes of this run only.

        Args:
            objects: this rank's.
            group: a group of all ranks other than the default one, such as `background_group`.
        """
        if self.size == 1:
            return objects
        parts: list[list[Any]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, objects, group=group)
        return [item for part in parts for item in part]

    def gather_numbers(self, number: int) -> list[int]:
        """`number` of every rank, in rank order; cheap enough for every step."""
        return self.all_gather(torch.tensor([number])).tolist()

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """Runs the body on rank 0 alone while the others wait; yields whether this rank does the work.

        A failure of rank 0 is raised on every rank as the same one-line error, so that no rank waits forever.
        """
        failure: BaseException | None = None
        try:
            yield self.is_main
        except BaseException as error:
            failure = error
        message = self.broadcast_object(None if failure is None else f"{failure}")
        if failure is not None:
            raise failure
        if message is not None:
            raise UserError(message)

    def shard(self, count: int) -> range:
        """The indices of `count` items assigned to this rank: contiguous, in rank order, sizes differing by at most 1.

        Example:
            >>> [list(World(rank=r, size=2).shard(5)) for r in (0, 1)]
            [[0, 1], [2, 3, 4]]
        """
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, world: World, tensor: Tensor) -> Tensor:
        ctx.world, ctx.rows = world, len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        begin = ctx.world.rank * ctx.rows
        return None, ctx.world.all_reduce_sum(gradient.contiguous())[begin : begin + ctx.rows]


def _backend(device: torch.device) -> str:
    # Both backends: checkpoints and objects travel over gloo while gradients travel over NCCL.
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo"


def read_slurm() -> None:
    """Sets the variables of torchrun in a Slurm step of several tasks, unless a launcher has set them."""
    num_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if num_tasks == 1 or "RANK" in os.environ:
        return
    # Run-length encoded: "4(x2),3" is a step over three nodes; SLURM_NODEID indexes the decoded list.
    per_node = [
        int(count)
        for count, repeats in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(num_tasks)))
        for _ in range(int(repeats or 1))
    ]
    described = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(per_node[int(os.environ.get("SLURM_NODEID", 0))]),
        "MASTER_ADDR": _first_host(),
        # Two steps on one machine must not share a port.
        "MASTER_PORT": str(20000 + (10 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ.get("SLURM_STEP_ID", 0)) % 10) % 40000),
    }
    for name, value in described.items():
        os.environ.setdefault(name, value)


def _first_host() -> str:
    """Address of rank 0 in a Slurm step: the first node of the step, or the launching node if that name does not resolve."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    name = "".join(part or "" for part in first.groups()) if first else ""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    return name or "127.0.0.1"


def _resolve_device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is '{name}': use auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda":
        if "SLURM_STEP_NUM_TASKS" in os.environ and torch.cuda.device_count() == 1:
            return torch.device("cuda", 0)  # Slurm exposes one device per task
        index = local_rank if device.index is None else device.index
        # Counted over all processes of this machine, so that every rank refuses and rank 0 reports it.
        num_needed = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.index is None else index + 1
        if num_needed > torch.cuda.device_count():
            raise UserError(
                f"device is '{name}' and needs {num_needed} CUDA devices, but {torch.cuda.device_count()} CUDA devices are visible: "
                "use device=cpu or fewer processes"
            )
        return torch.device("cuda", index)
    return device
