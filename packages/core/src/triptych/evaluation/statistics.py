"""Statistics of evaluation results: pass@k and bootstrap confidence intervals."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.errors import UserError


class Interval(NamedTuple):
    """A mean with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """The interval of a fraction as text, in per cent.

        Example:
            >>> Interval(0.5, 0.412, 0.6).percent()
            '50.0 % [41.2, 60.0]'
        """
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of `k` samples is correct, from `num_samples` samples.

        pass@k = 1 - C(n - c, k) / C(n, k)

    Source: Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), equation 1.

    Args:
        num_samples: n, number of samples of one problem.
        num_correct: c, number of correct samples.
        k: number of samples of which one must be correct.

    Raises:
        UserError: if `k` is not in 1..n or `num_correct` not in 0..n.

    Example:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= num_samples:
        raise UserError(f"k is {k} but there are {num_samples} samples per problem: pass@k needs 1 <= k <= samples")
    if not 0 <= num_correct <= num_samples:
        raise UserError(f"num_correct is {num_correct} of {num_samples} samples: it must lie between 0 and all")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def bootstrap_interval(
    values: Float[Tensor, " problems"],
    *,
    generator: torch.Generator,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Mean of `values` with its percentile bootstrap interval; problems are resampled with replacement.

    Samples of one problem are not independent, so average them per problem first and pass one value each.

    Args:
        values: one number per problem.
        generator: source of the resamples; CPU.
        confidence: coverage of the interval, in (0, 1).
        num_resamples: number of resampled data sets.

    Raises:
        UserError: if there is no value.
    """
    if values.numel() == 0:
        raise UserError("bootstrap_interval has no value to average: the evaluation split is empty")
    values = values.double().cpu()
    # Indices (num_resamples, problems), sampled with replacement; one mean per resample.
    resamples = torch.randint(len(values), (num_resamples, len(values)), generator=generator)
    means = values[resamples].mean(dim=1)
    tail = (1.0 - confidence) / 2.0
    low, high = torch.quantile(means, torch.tensor([tail, 1.0 - tail], dtype=torch.float64)).tolist()
    return Interval(mean=float(values.mean()), low=low, high=high)


def paired_difference(
    before: Float[Tensor, " problems"],
    after: Float[Tensor, " other_problems"],
    *,
    generator: torch.Generator,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Mean of `after - before` over the same problems with its bootstrap interval.

    Pairing removes the variance between easy and hard problems, so it resolves smaller differences than two separate
    intervals.

    Raises:
        UserError: if the two do not cover the same number of problems.
    """
    if len(before) != len(after):
        raise UserError(f"{len(before)} problems before and {len(after)} after: a paired comparison needs the same problems")
    return bootstrap_interval(after - before, generator=generator, confidence=confidence, num_resamples=num_resamples)
