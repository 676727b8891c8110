"""The step of a run whose metric is the best so far, so that its checkpoint is kept."""

import math
from collections.abc import Mapping


class BestStep:
    """Follows one metric over the steps that have a checkpoint.

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

    def improves(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether these metrics are better than all before; a value that is not finite never is."""
        value = None if self.metric is None else metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return False
        return self.step is None or self._sign * value > self._sign * self.value

    def observe(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Called in order with the metrics of each step that has a checkpoint."""
        if self.metric is not None and self.improves(metrics):
            value = metrics[self.metric]
            assert value is not None
            self.step, self.value = step, float(value)
