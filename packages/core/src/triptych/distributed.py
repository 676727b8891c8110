"""The processes of one run: who this one is, and what they tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from triptych.errors import UserError


@dataclass(frozen=True)
class World:
    """One process's place among all processes of a run.

    Attributes:
        rank: index of this process, 0 to size - 1. Rank 0 writes files and speaks.
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
        """Joins the process group that torchrun describes in the environment, or stands alone.

        The group is left when the context ends, also after an exception.

        Args:
            device: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:<index>`.
            timeout_seconds: how long a collective waits for a rank that does not come.

        Raises:
            UserError: if `device` names CUDA and there is none, or is no device at all.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        place = _resolve_device(device, local_rank)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        world = cls(rank=rank, size=size, local_rank=local_rank, device=place)
        if size == 1 or dist.is_initialized():
            yield world
            return
        # Both backends: checkpoints and objects travel over gloo while gradients travel over NCCL.
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "cpu:gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        try:
            yield world
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """True on the rank that writes files and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        if self.size > 1:
            dist.barrier()

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over ranks, as a new tensor of the same shape and dtype."""
        total = tensor.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def all_gather(self, tensor: Tensor) -> Tensor:
        """`tensor` of every rank, concatenated along dimension 0 in rank order; all ranks pass one shape."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_objects(self, objects: list[Any]) -> list[Any]:
        """The lists of all ranks joined in rank order, on every rank. Objects are pickled among our own processes."""
        if self.size == 1:
            return objects
        parts: list[list[Any]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, objects)
        return [item for part in parts for item in part]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def main_first(self) -> Iterator[bool]:
        """Runs the body on rank 0 alone while the others wait; yields whether this rank is to do the work.

        A failure of rank 0 is raised on every rank as the same one-line error, so that nobody waits for ever.
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

    def share(self, count: int) -> range:
        """The indices of `count` items that fall to this rank: contiguous, in rank order, sizes differing by at most 1.

        Example:
            >>> [list(World(rank=r, size=2).share(5)) for r in (0, 1)]
            [[0, 1], [2, 3, 4]]
        """
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


def _resolve_device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is '{name}': use auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda":
        index = local_rank if device.index is None else device.index
        # Counted over all processes of this machine, so that all of them refuse alike and rank 0 says so.
        num_needed = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.index is None else index + 1
        if num_needed > torch.cuda.device_count():
            raise UserError(
                f"device is '{name}' and needs {num_needed} CUDA devices, but {torch.cuda.device_count()} CUDA devices are visible: "
                "use device=cpu or fewer processes"
            )
        return torch.device("cuda", index)
    return device
