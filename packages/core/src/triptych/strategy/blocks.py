"""Operations that strategies share: repeated blocks, activation recomputation, mixed precision, copies, the clipped step."""

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
    """Returns `precision` if models can run in that dtype.

    Raises:
        UserError: if it is unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(f"strategy.precision is '{precision}': choose one of {', '.join(PRECISIONS)}")
    return precision


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model in module order: elements of a `ModuleList` of one type, with parameters and a forward.

    Only the outermost lists count: a list inside a block belongs to the block. A model must call its blocks through their
    forward, where hooks gather the parameters of a sharded block.
    """
    blocks: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            elements = list(child.children()) if isinstance(child, nn.ModuleList) else []
            is_uniform = len({type(element) for element in elements}) == 1
            if is_uniform and all(_has_forward(element) and any(True for _ in element.parameters()) for element in elements):
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
    """Makes the forward of `model` run under autocast: matrix products in `precision`, sums and norms in float32."""
    if precision != "float32":
        model.forward = torch.autocast(device.type, dtype=PRECISIONS[precision])(model.forward)


def copy_without_weights(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of `model` with its parameters on the meta device, and their values by the `id` of the meta parameter.

    Tied parameters stay tied; buffers are copied with their values; scalars get the shape (1,), see
    `scalars_to_vectors`.
    """
    # deepcopy takes an object in `memo` as copied already, so every reference to a parameter becomes its meta tensor.
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
    """Replaces every scalar parameter by one of shape (1,), which can be sharded and broadcasts in the same way."""
    for owner, name, parameter in list(parameter_owners(model)):
        if parameter.dim() == 0:
            owner._parameters[name] = nn.Parameter(parameter.detach().view(1), requires_grad=parameter.requires_grad)


def parameter_owners(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every registration of a parameter: (module, name in it, parameter); a tied parameter has several."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield owner, name, parameter


def clipped_step(model: nn.Module, optimizer: Optimizer, *, max_grad_norm: float, learning_rate: float) -> StepReport:
    """One optimizer step with the gradient of `model`, clipped to `max_grad_norm`; skipped if its norm is not finite.

    The norm is global, also for sharded gradients, so all ranks take the same decision.
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
    """The tree with every tensor copied to contiguous host memory, so that later steps do not change it."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True).contiguous(), tree)
