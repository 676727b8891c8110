"""AdamW with weight decay on matrices only, and learning-rate schedules as pure functions of the step."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from triptych.errors import UserError

SCHEDULES = ("constant", "linear", "cosine")


@dataclass
class OptimizerConfig:
    """Settings of AdamW and its learning-rate schedule.

    Attributes:
        learning_rate: peak rate; None where a command has a rule for it.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled decay of matrices; vectors (norms, biases) never decay.
        max_grad_norm: global gradient norm above which gradients are scaled down.
        warmup_steps: optimizer steps of linear warm-up from 0.
        schedule: `constant`, `linear` or `cosine`, after the warm-up.
        final_fraction: rate at the end of `linear` and `cosine`, as a fraction of the peak.
        max_skipped_steps: number of consecutive steps with a non-finite gradient that ends the run; fewer are skipped and counted.
    """

    learning_rate: float | None = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    schedule: str = "constant"
    final_fraction: float = 0.0
    max_skipped_steps: int = 3

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate < 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}: it must be 0 or more")
        if self.schedule not in SCHEDULES:
            raise UserError(f"optimizer.schedule is '{self.schedule}': choose one of {', '.join(SCHEDULES)}")
        if self.max_grad_norm <= 0:
            raise UserError(f"optimizer.max_grad_norm is {self.max_grad_norm}: it must be above 0")
        if self.max_skipped_steps < 1:
            raise UserError(f"optimizer.max_skipped_steps is {self.max_skipped_steps}: it must be 1 or more")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}: it must be 0 or more")

    @property
    def peak(self) -> float:
        """The peak rate.

        Raises:
            UserError: if none was given, and the command has no rule for it.
        """
        if self.learning_rate is None:
            raise UserError("optimizer.learning_rate is null: give a rate")
        return self.learning_rate

    @property
    def depends_on_total_steps(self) -> bool:
        """Whether the rate at a given step depends on the length of the run."""
        return self.schedule != "constant"


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """The rate of optimizer step `step` (0-based) of `total_steps`.

    Warm-up gives `learning_rate * (step + 1) / warmup_steps`; the decay then runs from 1 at the end of the
    warm-up to `final_fraction` at `total_steps`.

    Example:
        >>> config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="linear")
        >>> [learning_rate_at(step, 6, config) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.peak
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    remaining = 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.peak * (config.final_fraction + (1.0 - config.final_fraction) * remaining)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices with decay, vectors and scalars without."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_adamw(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """AdamW over `parameter_groups(model)`; fused on CUDA and on the CPU (a third of the time of separate operations there)."""
    fused = all(parameter.device.type in ("cuda", "cpu") for parameter in model.parameters())
    return AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=fused or None,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Sets the rate of every group in place."""
    for group in optimizer.param_groups:
        current = group["lr"]
        if isinstance(current, torch.Tensor):
            current.fill_(learning_rate)
        else:
            group["lr"] = learning_rate
