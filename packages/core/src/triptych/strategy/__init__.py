"""How a model is placed on devices, stepped, saved and read back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


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
    """

    def prepare(self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]) -> nn.Module:
        """Places `model`, builds its optimizer, and returns the module whose forward must be called from now on."""
        ...

    def microbatch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds the forward and backward of one micro-batch; ranks exchange gradients in the `last` one only."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar `loss`; to be called inside `microbatch`."""
        ...

    def step(self, learning_rate: float) -> StepReport:
        """Clips, steps with `learning_rate` and clears gradients; a non-finite norm skips the step on all ranks."""
        ...

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in full, one at a time, under the name it has in the model given to `prepare`."""
        ...

    def save(self, directory: Path) -> None:
        """Writes model and optimizer into `directory`."""
        ...

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote, in place."""
        ...
