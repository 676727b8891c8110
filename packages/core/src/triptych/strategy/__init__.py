"""How a model is placed on devices, stepped, saved and read back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from triptych.checkpoint import Writer


class StepReport(NamedTuple):
    """What one optimizer step did.

    Attributes:
        grad_norm: global gradient norm before clipping.
        skipped: true if the norm was not finite on any rank and the step was left out on every rank.
    """

    grad_norm: float
    skipped: bool


class Strategy(Protocol):
    """Contract of every parallelism.

    A loss handed to `backward` is this rank's *sum* over its examples, already divided by the global number of
    examples: gradients are summed over ranks, never averaged, so the number of ranks cannot change them.

    The model handed to `prepare` stays the caller's: it is what an unsharded sampler reads, and what is saved in the end. A
    strategy that shards trains a copy of it, and the caller's own holds the trained weights after `gather`.

    Attributes:
        precision: dtype of the forward, `float32` or `bfloat16`; parameters and optimizer are of float32 in any case.
        syncs_in_forward: whether the ranks exchange parameters in every forward, so that all must have as many
            micro-batches.
    """

    precision: str
    syncs_in_forward: bool

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Places `model` or a sharded copy, builds its optimizer, and returns the module whose forward is to be called."""
        ...

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds the forward and backward of one micro-batch; the gradient is complete after the `last` one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar `loss`; to be called inside `microbatch`."""
        ...

    def step(self, learning_rate: float) -> StepReport:
        """Clips, steps with `learning_rate` and clears gradients; a non-finite norm skips the step on all ranks."""
        ...

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in full on every rank, one at a time, under the name it has in the model given to `prepare`.

        To be called, and read to the end, on all ranks.
        """
        ...

    def gather(self) -> None:
        """Writes the trained weights into the model given to `prepare`, on every rank; does nothing where it is that model."""
        ...

    def save(self, directory: Path) -> Writer | None:
        """Writes model and optimizer into `directory`, or copies them and returns what will; see `Saveable`."""
        ...

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote, in place; the number of ranks may be another."""
        ...
