"""Fully sharded data parallelism (FSDP2): every rank holds a shard of each parameter, gradient and optimizer state."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from triptych.checkpoint import Writer
from triptych.distributed import World
from triptych.errors import UserError
from triptych.strategy import StepReport
from triptych.strategy.blocks import (
    PRECISIONS,
    autocast_forward,
    check_precision,
    clipped_step,
    copy_without_weights,
    host_copy,
    parameter_owners,
    recompute_activations,
    repeated_blocks,
)


class FSDPStrategy:
    """Shards a copy of the model with `fully_shard`, block by block; the model given to `prepare` keeps its weights until `gather`.

    A rank holds its shards and, while a block computes, that block in full. Blocks are moved to the device one at a time,
    so that the full model is never there; ranks other than 0 may pass a model on the meta device, and receive rank 0's
    weights.

    Args:
        world: the processes of the run.
        max_grad_norm: global gradient norm above which gradients are scaled down.
        precision: `float32`, or `bfloat16` for forward and backward; parameters, reductions and optimizer stay float32.
        replicas: hybrid sharding: number of groups of ranks that hold a full model each, sharded within the group; 1 shards
            over all ranks. Ranks of one group are consecutive, so one group per machine keeps the gathering inside it.
        reshard_after_forward: free a block's parameters after its forward, and gather them again in the backward.
        activation_checkpointing: keep only the inputs of the model's blocks, and recompute the rest in the backward.
        cpu_offload: keep parameters, gradients and optimizer in host memory, and only the block that computes on the device.

    Raises:
        UserError: if `precision` is unknown, or `replicas` does not divide the number of ranks.
    """

    syncs_in_forward = True

    def __init__(
        self,
        world: World,
        *,
        max_grad_norm: float,
        precision: str = "float32",
        replicas: int = 1,
        reshard_after_forward: bool = True,
        activation_checkpointing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        if replicas < 1 or world.size % replicas:
            raise UserError(
                f"strategy.replicas is {replicas}, which does not divide the number of processes ({world.size}): choose a divisor"
            )
        self.precision = check_precision(precision)
        self._world = world
        self._max_grad_norm = max_grad_norm
        self._replicas = replicas
        self._reshards = reshard_after_forward
        self.recomputes = activation_checkpointing
        self._offload = CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if cpu_offload else OffloadPolicy()
        self._given: nn.Module
        self._model: FSDPModule
        self._optimizer: Optimizer

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Returns the sharded copy; see `Strategy.prepare`.

        Raises:
            UserError: if blocks share parameters with one another.
        """
        self._given = model
        copied, sources = copy_without_weights(model)
        for module in copied.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self._world.device)
        if self.recomputes:
            recompute_activations(copied)
        mesh = self._mesh()
        # Blocks are gathered in `precision`; autocast selects the dtype of each operation.
        policy = MixedPrecisionPolicy(param_dtype=PRECISIONS[self.precision], reduce_dtype=torch.float32, cast_forward_inputs=False)
        autocast_forward(copied, self.precision, self._world.device)
        placed: set[int] = set()
        for block in [*repeated_blocks(copied), copied]:
            self._fill(block, sources, placed)
            # The root module keeps its parameters gathered: the backward begins with them.
            reshards = self._reshards if block is not copied else False
            fully_shard(block, mesh=mesh, reshard_after_forward=reshards, mp_policy=policy, offload_policy=self._offload)
        assert isinstance(copied, FSDPModule)
        for module in copied.modules():
            if isinstance(module, FSDPModule):
                # The contract requires the sum; gloo has no average either.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._model = copied
        self._optimizer = build_optimizer(copied)
        get_state_dict(copied, self._optimizer)  # makes the moments by a step with zero gradients, whose step count is cleared below
        for moments in self._optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        return copied

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Does nothing: gradients are reduced in every micro-batch, since unreduced ones would have to be kept unsharded."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradient of `loss`; see `Strategy.backward`."""
        loss.backward()

    def step(self, learning_rate: float) -> StepReport:
        """Clips, steps and clears; see `Strategy.step`."""
        return clipped_step(self._module, self._optimizer, max_grad_norm=self._max_grad_norm, learning_rate=learning_rate)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter gathered from all ranks, one at a time, on this rank's device."""
        shapes = {name: parameter.shape for name, parameter in self._given.named_parameters()}
        for name, parameter in self._module.named_parameters():
            yield name, self._full(parameter).view(shapes[name])

    def gather(self) -> None:
        """Writes weights and buffers of the trained copy into the model given to `prepare`, and moves that model to the device.

        A rank whose model is on the meta device takes part in the gathering and keeps nothing.
        """
        with torch.no_grad():
            given = dict(self._given.named_parameters())
            for name, parameter in self.full_parameters():
                if not given[name].is_meta:
                    given[name].copy_(parameter)
            buffers = dict(self._module.named_buffers())
            for name, buffer in self._given.named_buffers():
                if not buffer.is_meta:
                    buffer.copy_(buffers[name])
        if not any(parameter.is_meta for parameter in given.values()):
            self._given.to(self._world.device)

    def save(self, directory: Path) -> Writer | None:
        """Copies this rank's shards; torch.distributed.checkpoint writes them as safetensors."""
        state = host_copy(self._state()[0])
        group = self._world.background_group

        def write() -> None:
            save(state, storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True), process_group=group)

        return write

    def load(self, directory: Path) -> None:
        """Restores the shards of this rank from what any number of ranks wrote.

        Raises:
            UserError: if the saved weights do not fit the model.
        """
        table, model, optimizer = self._state()
        try:
            load(table, storage_reader=HuggingFaceStorageReader(str(directory)))
        except CheckpointException as error:  # a BaseException
            reason = str(next(iter(error.failures.values()))[0]).splitlines()[0]
            raise UserError(f"{directory} does not fit this model: {reason}") from None
        set_state_dict(self._module, self._optimizer, model_state_dict=model, optim_state_dict=optimizer)

    @property
    def _module(self) -> nn.Module:
        assert isinstance(self._model, nn.Module)
        return self._model

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """A flat table that `load` fills in place, and the state dicts of model and optimizer, which hold the same tensors."""
        found: Any = get_state_dict(self._module, self._optimizer)
        model, optimizer = found
        table = {f"model/{name}": value for name, value in model.items()}
        for name, moments in optimizer["state"].items():
            table |= {f"{moment}/{name}": value for moment, value in moments.items()}
        return table, model, optimizer

    def _full(self, parameter: Tensor) -> Tensor:
        found = parameter.detach()
        if not isinstance(found, DTensor):
            return found
        on_device: Any = found.to(self._world.device)  # the mesh is on the device, an offloaded shard is not
        return on_device.full_tensor()

    def _mesh(self) -> DeviceMesh:
        self._world.form_group()
        kind, size = self._world.device.type, self._world.size
        if self._replicas == 1:
            return init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
        return init_device_mesh(kind, (self._replicas, size // self._replicas), mesh_dim_names=("replicate", "shard"))

    def _fill(self, block: nn.Module, sources: dict[int, Tensor], placed: set[int]) -> None:
        """Materialises the parameters of a block that are not sharded yet on the device, with rank 0's values."""
        # A tied parameter is one meta tensor with several owners: broadcast once, registered at each.
        filled: dict[int, nn.Parameter] = {}
        for owner, name, empty in list(parameter_owners(block)):
            if isinstance(empty, DTensor):
                continue
            if id(empty) in placed:
                raise UserError("two blocks of the model share a parameter, which fsdp would shard twice: use strategy=ddp")
            if id(empty) not in filled:
                source = sources[id(empty)]
                value = torch.empty(empty.shape, dtype=empty.dtype, device=self._world.device)
                if not source.is_meta:
                    value.copy_(source)
                if self._world.size > 1:
                    dist.broadcast(value, src=0)
                filled[id(empty)] = nn.Parameter(value, requires_grad=empty.requires_grad)
            owner._parameters[name] = filled[id(empty)]
        placed |= filled.keys()
