"""One process, or one full replica per process (DistributedDataParallel)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_model, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from triptych.checkpoint import Writer
from triptych.distributed import World
from triptych.errors import UserError
from triptych.strategy import StepReport
from triptych.strategy.blocks import autocast_forward, check_precision, clipped_step, host_copy, recompute_activations


class DDPStrategy:
    """Every rank holds the whole model and optimizer; gradients are summed over ranks.

    Args:
        world: the processes of the run.
        max_grad_norm: global gradient norm above which gradients are scaled down.
        precision: `float32`, or `bfloat16` for a forward under autocast; parameters stay float32.
        activation_checkpointing: keep only the inputs of the model's blocks, and recompute the rest in the backward.
        torch_compile: compile the model with `torch.compile`, which needs a C++ compiler on a CPU and takes up to a minute at the first
            step of every shape. Results differ from those of the uncompiled model by rounding.

    Raises:
        UserError: if `precision` is unknown.
    """

    syncs_in_forward = False

    def __init__(
        self,
        world: World,
        *,
        max_grad_norm: float,
        precision: str = "float32",
        activation_checkpointing: bool = False,
        torch_compile: bool = False,
    ) -> None:
        self.precision = check_precision(precision)
        self._world = world
        self._max_grad_norm = max_grad_norm
        self.recomputes = activation_checkpointing
        self._compiles = torch_compile
        self._model: nn.Module
        self._forward: nn.Module
        self._optimizer: Optimizer

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Moves `model` to this rank's device and, with several ranks, wraps it in DistributedDataParallel."""
        self._model = model.to(self._world.device)
        if self.recomputes:
            recompute_activations(model)
        self._optimizer = build_optimizer(self._model)
        if self._compiles:
            self._model.compile()
        self._forward = self._model
        if self._world.size > 1:
            device_ids = [self._world.device.index] if self._world.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self._model, device_ids=device_ids)
        autocast_forward(self._forward, self.precision, self._world.device)
        return self._forward

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds one micro-batch; see `Strategy.microbatch`."""
        # DistributedDataParallel decides in the forward whether the backward communicates, so `no_sync` must
        # contain the forward as well.
        if isinstance(self._forward, DistributedDataParallel) and not last:
            return self._forward.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradient of `loss`; see `Strategy.backward`."""
        # DistributedDataParallel divides the sum over ranks by their number; the contract requires the sum.
        (loss * self._world.size).backward()

    def step(self, learning_rate: float) -> StepReport:
        """Clips, steps and clears; see `Strategy.step`."""
        # Replicas hold the same summed gradient, hence the same norm: no communication is needed for equal decisions.
        return clipped_step(self._model, self._optimizer, max_grad_norm=self._max_grad_norm, learning_rate=learning_rate)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """This replica's parameters, detached."""
        for name, parameter in self._model.named_parameters():
            yield name, parameter.detach()

    def gather(self) -> None:
        """Does nothing: the model given to `prepare` is the one that is trained."""

    def save(self, directory: Path) -> Writer | None:
        """Rank 0 copies model and optimizer and writes `model.safetensors` and `optimizer.pt`; the other replicas are equal."""
        if not self._world.is_main:
            return None
        # safetensors stores a tied parameter under one of its names; `load_model` restores the others.
        named = {id(tensor): (name, tensor) for name, tensor in reversed(self._model.state_dict(keep_vars=True).items())}
        model, optimizer = host_copy(dict(named.values())), host_copy(self._optimizer.state_dict())

        def write() -> None:
            save_file(model, directory / "model.safetensors")
            torch.save(optimizer, directory / "optimizer.pt")

        return write

    def load(self, directory: Path) -> None:
        """Restores model and optimizer in place.

        Raises:
            UserError: if the saved weights do not fit the model.
        """
        try:
            load_model(self._model, directory / "model.safetensors", device=str(self._world.device))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{directory / 'model.safetensors'} does not fit this model: {reason}") from error
        state = torch.load(directory / "optimizer.pt", map_location="cpu", weights_only=True)
        self._optimizer.load_state_dict(state)
