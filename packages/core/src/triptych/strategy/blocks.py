"""What several strategies do to a model: find its repeated blocks, recompute activations, lower the precision, step."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from triptych.errors import UserError
from triptych.optim import set_learning_rate
from triptych.strategy import StepReport

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_precision(precision: str) -> str:
    """The name of a dtype that models may be run in.

    Raises:
        UserError: if it is none.
    """
    if precision not in PRECISIONS:
        raise UserError(f"strategy.precision is '{precision}': choose one of {', '.join(PRECISIONS)}")
    return precision


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model in the order of its modules: elements of a `ModuleList`, alike, with parameters and a forward.

    Only the outermost lists count: a block's own lists belong to the block. Blocks must be called through their forward,
    which is where a sharded one is put together.
    """
    blocks: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            elements = list(child.children()) if isinstance(child, nn.ModuleList) else []
            alike = len({type(element) for element in elements}) == 1
            if alike and all(_has_forward(element) and any(True for _ in element.parameters()) for element in elements):
                blocks.extend(elements)
            else:
                walk(child)

    walk(model)
    return blocks


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def recompute_activations(model: nn.Module) -> None:
    """Keeps only the inputs of every repeated block for the backward, which runs the block's forward once more.

    Raises:
        UserError: if the model has no repeated blocks.
    """
    blocks = repeated_blocks(model)
    if not blocks:
        raise UserError("strategy.activation_checkpointing is true but the model has no repeated blocks: leave it false")
    for block in blocks:
        if not getattr(block.forward, "_recomputes", False):
            forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            forward._recomputes = True  # type: ignore[attr-defined]
            block.forward = forward


def autocast_forward(model: nn.Module, precision: str, device: torch.device) -> None:
    """Runs the forward of `model` from now on in mixed precision: matrix products in the lower one, sums and norms in float32."""
    if precision != "float32":
        model.forward = torch.autocast(device.type, dtype=PRECISIONS[precision])(model.forward)


def copy_without_weights(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of `model` whose parameters are on the meta device, and by their `id` what their values are.

    Parameters that are tied stay tied; buffers are copied with their values; scalars become vectors of one, see
    `scalars_to_vectors`.
    """
    memo: dict[int, Any] = {}
    sources: dict[int, Tensor] = {}
    for parameter in model.parameters():
        source = parameter.detach()
        source = source.view(1) if source.dim() == 0 else source
        empty = nn.Parameter(torch.empty_like(source, device="meta"), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = empty
        sources[id(empty)] = source
    return copy.deepcopy(model, memo), sources


def scalars_to_vectors(model: nn.Module) -> None:
    """Replaces every parameter of no dimension by one of shape (1,), which can be divided among ranks and broadcasts alike."""
    for owner, name, parameter in list(parameter_owners(model)):
        if parameter.dim() == 0:
            owner._parameters[name] = nn.Parameter(parameter.detach().view(1), requires_grad=parameter.requires_grad)


def parameter_owners(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every place where a parameter is registered: (module, name in it, parameter); a tied one comes more than once."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield owner, name, parameter


def clipped_step(model: nn.Module, optimizer: Optimizer, *, max_grad_norm: float, learning_rate: float) -> StepReport:
    """One step with the gradient that `model` holds, scaled down to `max_grad_norm`; none if its norm is not finite.

    The norm is that of the whole gradient, also where this rank holds a part of it: all ranks decide alike.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    total = norm.full_tensor() if isinstance(norm, DTensor) else norm
    skipped = not bool(torch.isfinite(total))
    if not skipped:
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepReport(grad_norm=float(total), skipped=skipped)


def host_copy(tree: Any) -> Any:
    """The tree with a copy of every tensor in host memory, which later steps do not change; tensors are made contiguous."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True).contiguous(), tree)
