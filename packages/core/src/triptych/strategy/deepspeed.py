"""DeepSpeed ZeRO: optimizer states (1), gradients (2) and parameters (3) partitioned over the ranks."""

import copy
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from triptych.checkpoint import Writer
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import set_learning_rate
from triptych.strategy import StepReport
from triptych.strategy.blocks import check_precision, recompute_activations, repeated_blocks, scalars_to_vectors

_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedStrategy:
    """A copy of the model in a DeepSpeed engine; the model given to `prepare` keeps its weights until `gather`.

    Checkpoints hold every parameter and moment in full, distributed over the ranks' safetensors files, so that any number
    of ranks and any stage can resume from them; DeepSpeed's own format is tied to one number of ranks and is unpickled.

    Args:
        world: the processes of the run.
        max_grad_norm: global gradient norm above which gradients are scaled down.
        stage: what is partitioned: optimizer states (1), gradients as well (2), parameters as well (3).
        precision: `float32`, or `bfloat16` for a forward under autocast; parameters and optimizer stay float32.
        activation_checkpointing: keep only the inputs of the model's blocks, and recompute the rest in the backward.
        cpu_offload: keep optimizer states, and with stage 3 parameters, in host memory.

    Raises:
        UserError: if `precision` or `stage` is unknown, or DeepSpeed selected another device type.
    """

    syncs_in_forward = True

    def __init__(
        self,
        world: World,
        *,
        max_grad_norm: float,
        stage: int = 2,
        precision: str = "float32",
        activation_checkpointing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        if stage not in (1, 2, 3):
            raise UserError(f"strategy.stage is {stage}: ZeRO has the stages 1, 2 and 3")
        if get_accelerator().device_name() != world.device.type:
            raise UserError(
                f"device is {world.device} but DeepSpeed computes on {get_accelerator().device_name()}: "
                f"set DS_ACCELERATOR={world.device.type} in the environment"
            )
        self.precision = check_precision(precision)
        self._world = world
        self._stage = stage
        self.recomputes = activation_checkpointing
        offload = {"device": "cpu", "pin_memory": world.device.type == "cuda"}
        zero: dict[str, Any] = {"stage": stage}
        if cpu_offload:
            zero["offload_optimizer"] = offload
            if stage == 3:
                zero["offload_param"] = offload
        self._config = {
            "train_micro_batch_size_per_gpu": 1,  # required, but used in its throughput message only
            "gradient_clipping": max_grad_norm,
            "zero_optimization": zero,
            "torch_autocast": {"enabled": precision != "float32", "dtype": precision},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**60,
        }
        self._given: nn.Module
        self._engine: Any
        self._parameters: dict[str, nn.Parameter]

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Returns the engine that holds a copy of `model`; see `Strategy.prepare`."""
        self._given = model
        copied = copy.deepcopy(model).to(self._world.device)
        scalars_to_vectors(copied)
        if self.recomputes:
            recompute_activations(copied)
        if self._stage == 3:
            _gather_by_block(copied)
        self._parameters = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
        self._world.form_group()
        os.environ.setdefault("LOCAL_RANK", str(self._world.local_rank))  # required by DeepSpeed
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # Disables an extension that DeepSpeed compiles at start on CPU, which needs a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        optimizer = build_optimizer(copied)
        self._engine, *_ = deepspeed.initialize(model=copied, optimizer=optimizer, config=self._config, dist_init_required=False)
        self._make_moments()
        return self._engine

    @contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:
        """Surrounds one micro-batch; see `Strategy.microbatch`."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradient of `loss`; see `Strategy.backward`."""
        # DeepSpeed divides the sum over ranks by their number; the contract requires the sum.
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> StepReport:
        """Clips, steps and clears; see `Strategy.step`."""
        set_learning_rate(self._engine.optimizer.optimizer, learning_rate)
        self._engine.step()
        skipped = bool(self._engine.optimizer.overflow)
        norm = float("inf") if skipped else float(self._engine.get_global_grad_norm())
        return StepReport(grad_norm=norm, skipped=skipped)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every trained parameter's float32 master weights, gathered from all ranks, one at a time; frozen parameters unchanged."""
        for name, parameter in self._given.named_parameters():
            trained = self._parameters.get(name)
            yield name, parameter.detach() if trained is None else safe_get_full_fp32_param(trained).detach().view(parameter.shape)

    def gather(self) -> None:
        """Writes weights and buffers of the trained copy into the model given to `prepare`, and moves that model to the device."""
        given = dict(self._given.named_parameters())
        with torch.no_grad():
            for name, parameter in self.full_parameters():
                given[name].copy_(parameter)
            buffers = dict(self._engine.module.named_buffers())
            for name, buffer in self._given.named_buffers():
                buffer.copy_(buffers[name])
        self._given.to(self._world.device)

    def save(self, directory: Path) -> Writer | None:
        """Every rank copies its shard of the parameter list, gathered in full, to host memory and writes it as safetensors."""
        kept: dict[str, Tensor] = {}
        for index, (name, parameter) in enumerate(self._parameters.items()):
            values = {"model": safe_get_full_fp32_param(parameter)}
            values |= {moment: safe_get_full_optimizer_state(parameter, moment) for moment in _MOMENTS}
            if index % self._world.size == self._world.rank:
                kept |= {f"{kind}/{name}": value.detach().to("cpu", copy=True).contiguous() for kind, value in values.items()}
        if self._world.is_main:
            kept |= {f"model/{name}": value.detach().to("cpu", copy=True).contiguous() for name, value in self._untrained()}
        path = directory / f"rank_{self._world.rank:05d}.safetensors"
        steps = str(float(next(iter(self._steps()), torch.tensor(0.0))))

        def write() -> None:
            save_file(kept, path, metadata={"step": steps})

        return write

    def load(self, directory: Path) -> None:
        """Restores what any number of ranks under any stage wrote.

        Raises:
            UserError: if the saved weights do not fit the model.
        """
        # One file per rank that saved; every key is in exactly one of them.
        files: list[Any] = [safe_open(path, framework="pt") for path in sorted(directory.glob("rank_*.safetensors"))]
        where = {key: file for file in files for key in file.keys()}  # noqa: SIM118  # has `keys` but is no mapping
        for name, parameter in self._parameters.items():
            try:
                values = {kind: where[f"{kind}/{name}"].get_tensor(f"{kind}/{name}") for kind in ("model", *_MOMENTS)}
            except (KeyError, SafetensorError):
                raise UserError(f"{directory} does not fit this model: it has no '{name}'") from None
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if values["model"].shape != shape:
                found = tuple(values["model"].shape)
                raise UserError(f"{directory} does not fit this model: '{name}' has the shape {found} instead of {tuple(shape)}")
            self._set(parameter, values)
        for name, buffer in self._untrained():
            if not isinstance(buffer, nn.Parameter):
                try:
                    buffer.copy_(where[f"model/{name}"].get_tensor(f"model/{name}"))
                except (KeyError, RuntimeError):
                    raise UserError(f"{directory} does not fit this model: it has no '{name}' of the shape {tuple(buffer.shape)}") from None
        step = next((float(file.metadata()["step"]) for file in files), 0.0)
        for value in self._steps():
            value.fill_(step)

    def _untrained(self) -> Iterator[tuple[str, Tensor]]:
        """Frozen parameters and buffers, by their names in the state dict."""
        buffers = dict(self._engine.module.named_buffers())
        trained = {id(parameter) for name, parameter in self._given.named_parameters() if name in self._parameters}
        for name, tensor in self._given.state_dict(keep_vars=True).items():
            if id(tensor) not in trained:
                yield name, buffers.get(name, tensor)

    def _make_moments(self) -> None:
        """Makes the zero moments that the optimizer would make at its first step, so that they can be saved and restored before it."""
        zero = self._engine.optimizer
        state = zero.optimizer.state
        for flat in zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups:
            state[flat] = {"step": torch.zeros((), device=flat.device if zero.optimizer.defaults["fused"] else "cpu")}
            state[flat] |= {moment: torch.zeros_like(flat) for moment in _MOMENTS}
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()  # maps each parameter to its slice of the flat moments

    def _set(self, parameter: nn.Parameter, values: dict[str, Tensor]) -> None:
        on_device = {kind: value.to(self._world.device) for kind, value in values.items()}
        if self._stage == 3:
            # Stage 3 splits the flattened parameter into equal slices, zero-padded at the end: slice r is that of rank r.
            size = safe_get_local_fp32_param(parameter).numel()
            missing = size * self._world.size - parameter.ds_numel  # type: ignore[attr-defined]
            own = slice(size * self._world.rank, size * (self._world.rank + 1))
            parts = {kind: nn.functional.pad(value.flatten(), (0, missing))[own] for kind, value in on_device.items()}
            safe_set_local_fp32_param(parameter, parts["model"])
            for moment in _MOMENTS:
                safe_set_local_optimizer_state(parameter, parts[moment], moment)
        else:
            safe_set_full_fp32_param(parameter, on_device["model"])
            for moment in _MOMENTS:
                safe_set_full_optimizer_state(parameter, on_device[moment], moment)
        # A step copies the master weights into the weights of the forward; here no step follows before the next forward.
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if parameter.numel():
                parameter.data.copy_(on_device["model"])

    def _steps(self) -> Iterator[Tensor]:
        for moments in self._engine.optimizer.optimizer.state.values():
            if "step" in moments:
                yield moments["step"]


def _gather_by_block(model: nn.Module) -> None:
    """Makes ZeRO-3 gather each block as a whole, and all parameters outside blocks for the model's whole forward.

    Its default gathers each module in that module's own forward; a parameter used elsewhere would be empty.
    """
    inside: set[int] = set()
    for block in repeated_blocks(model):
        for parameter in block.parameters():
            deepspeed.zero.register_external_parameter(block, parameter)
            inside.add(id(parameter))
    for parameter in model.parameters():
        if id(parameter) not in inside:
            deepspeed.zero.register_external_parameter(model, parameter)
