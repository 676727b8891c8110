"""The step of a run whose metric is the best so far, so that its checkpoint is kept."""

import math
from collections.abc import Mapping


class BestStep:
    """Follows one metric over the steps that log it.

    Args:
        metric: its name, such as `evaluation/accuracy`; None to follow none.
        lower_is_better: whether the smallest value is the best.

    Attributes:
        step: the first step with the best value; None before any.

    Example:
        >>> best = BestStep("accuracy")
        >>> for step, value in enumerate([0.1, 0.5, 0.5, 0.2]):
        ...     best.observe({"accuracy": value}, step)
        >>> best.step, best.value
        (1, 0.5)
    """

    def __init__(self, metric: str | None, *, lower_is_better: bool = False) -> None:
        self.metric = metric
        self.step: int | None = None
        self.value = math.nan
        self._sign = -1.0 if lower_is_better else 1.0

    def observe(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Called with the metrics of each step, in order; a value that is not finite is never the best."""
        value = None if self.metric is None else metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return
        if self.step is None or self._sign * value > self._sign * self.value:
            self.step, self.value = step, float(value)
