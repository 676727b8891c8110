"""Contract of a parallelism: places a model on devices, steps, saves and loads it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from triptych.checkpoint import Writer


class StepReport(NamedTuple):
    """Result of one optimizer step.

    Attributes:
        grad_norm: global gradient norm before clipping.
        skipped: true if the norm was not finite on any rank and the step was skipped on every rank.
    """

    grad_norm: float
    skipped: bool


class Strategy(Protocol):
    """Contract of every parallelism.

    A loss handed to `backward` is this rank's *sum* over its examples, already divided by the global number of
    examples: gradients are summed over ranks, never averaged, so the number of ranks cannot change them.

    The model given to `prepare` stays the caller's, for an unsharded sampler and for the final save. A strategy that
    shards trains a copy of it; `gather` writes the trained weights into the caller's model.

    Attributes:
        precision: dtype of the forward, `float32` or `bfloat16`; parameters and optimizer states are always float32.
        recomputes: whether the backward recomputes the activations of repeated blocks; may be set before `prepare`.
        syncs_in_forward: whether the ranks exchange parameters in every forward, so that all need the same number of
            micro-batches.
    """

    precision: str
    recomputes: bool
    syncs_in_forward: bool

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Places `model` or a sharded copy, builds its optimizer, and returns the module whose forward the caller runs."""
        ...

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds the forward and backward of one micro-batch; the gradient is complete after the `last` one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradient of a scalar `loss`; to be called inside `microbatch`."""
        ...

    def step(self, learning_rate: float) -> StepReport:
        """Clips the gradients, steps with `learning_rate` and clears them; a non-finite norm skips the step on all ranks."""
        ...

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in full on every rank, one at a time, under the name it has in the model given to `prepare`.

        To be called, and iterated to the end, on all ranks.
        """
        ...

    def gather(self) -> None:
        """Writes the trained weights into the model given to `prepare`, on every rank; does nothing if that model is the one trained."""
        ...

    def save(self, directory: Path) -> Writer | None:
        """Writes model and optimizer into `directory`, or copies them and returns a writer; see `Saveable`."""
        ...

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote, in place; the number of ranks may differ."""
        ...
