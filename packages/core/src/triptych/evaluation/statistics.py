"""Statistics of evaluation results: pass@k and bootstrap confidence intervals."""

import math
from statistics import NormalDist
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


def binomial_interval(num_successes: int, num_trials: int, *, confidence: float = 0.95) -> Interval:
    """A fraction with its Wilson score interval.

    With z the quantile of the confidence and p = k / n:

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        num_successes: k, between 0 and `num_trials`.
        num_trials: n, 1 or more.
        confidence: coverage of the two-sided interval, in (0, 1).

    Raises:
        UserError: if a number is out of range.

    Example:
        >>> [round(value, 3) for value in binomial_interval(10, 10)]
        [1.0, 0.722, 1.0]
    """
    if not 0 <= num_successes <= num_trials or num_trials < 1:
        raise UserError(f"num_successes is {num_successes} of {num_trials}: it must lie between 0 and all of one or more")
    z, fraction = NormalDist().inv_cdf((1 + confidence) / 2), num_successes / num_trials
    centre = fraction + z**2 / (2 * num_trials)
    half = z * (fraction * (1 - fraction) / num_trials + z**2 / (4 * num_trials**2)) ** 0.5
    scale = 1 + z**2 / num_trials
    return Interval(fraction, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def detectable_difference(before: Float[Tensor, " problems"], after: Float[Tensor, " other_problems"]) -> float:
    """The smallest true difference that a paired test at a level of 5 % detects with a probability of 80 %.

        (1.96 + 0.84) * std(after - before) / sqrt(n)

    Source: the normal approximation of the power of a two-sided paired test.

    Raises:
        UserError: if the two do not cover the same problems, or there are fewer than two.
    """
    if len(before) != len(after) or len(before) < 2:
        raise UserError(f"{len(before)} problems before and {len(after)} after: a paired comparison needs the same two or more problems")
    return 2.8 * float((after.double() - before.double()).std()) / len(before) ** 0.5


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
