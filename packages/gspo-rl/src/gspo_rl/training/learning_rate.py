"""A learning rate for policies that were trained elsewhere, from their size."""

import math
from dataclasses import replace

from gspo_rl.models.policy import Policy
from triptych.optim import OptimizerConfig
from triptych.telemetry.logging import get_logger

_logger = get_logger("train")

_RATE = 1e-5
_PARAMETERS = 135e6
_LOW_RANK = 10.0
_MOST = 5e-5  # of policies below 5 million parameters


def suggested_rate(num_parameters: int, *, has_adapter: bool) -> float:
    """A peak rate of AdamW for a pretrained policy.

    1e-5 is the best of a sweep at 135 million parameters (experiments/gspo/real_model), and the rate falls with the square root of the
    size: 1.3e-6 at 8 billion, 6.7e-7 at 30 billion. An adapter needs about ten times the rate.

    Args:
        num_parameters: of the policy.
        has_adapter: whether an update is trained instead of all parameters.

    Example:
        >>> round(suggested_rate(135_000_000, has_adapter=False) * 1e6, 3), round(suggested_rate(540_000_000, has_adapter=True) * 1e6, 3)
        (10.0, 50.0)
    """
    rate = min(_MOST, _RATE * math.sqrt(_PARAMETERS / num_parameters))
    return rate * _LOW_RANK if has_adapter else rate


def with_rate(optimizer: OptimizerConfig, policy: Policy) -> OptimizerConfig:
    """The settings with a peak rate: their own, or the suggested one, which is logged."""
    if optimizer.learning_rate is not None:
        return optimizer
    has_adapter = policy.num_trainable < policy.num_parameters
    rate = suggested_rate(policy.num_parameters, has_adapter=has_adapter)
    rate = float(f"{rate:.2g}")
    what = "an adapter of " if has_adapter else ""
    _logger.info("learning rate      %.2g, for %s%s parameters", rate, what, f"{policy.num_parameters:,}")
    return replace(optimizer, learning_rate=rate)
