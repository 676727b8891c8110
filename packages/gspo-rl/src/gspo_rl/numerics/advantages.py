"""Group-relative advantages."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from triptych.errors import UserError


def group_relative_advantages(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """Rewards standardised within each group: A_i = (r_i - mean(r)) / std(r), float32.

    Groups of equal rewards have advantage exactly 0. They are found by max == min, so the standard deviation needs no
    epsilon, which would shrink the advantages of groups with a small spread. The standard deviation is the unbiased
    one, as in TRL and verl.

    Source: GSPO (arXiv 2507.18071), equation 6.

    Args:
        rewards: one row per prompt, one column per sample.

    Raises:
        UserError: if a group has fewer than 2 samples, or a reward is not finite.

    Example:
        >>> group_relative_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[ 0.7071, -0.7071],
                [ 0.0000,  0.0000]])
    """
    if rewards.shape[1] < 2:
        raise UserError(f"group_size is {rewards.shape[1]}: advantages compare samples of one prompt, so it must be 2 or more")
    if not bool(torch.isfinite(rewards).all()):
        raise UserError("a reward is not finite: the task's reward function must return finite numbers")
    # float64: a rounding error in the mean of float32 rewards would be magnified by a division by a tiny spread.
    exact = rewards.double()
    spread = exact.std(dim=1, keepdim=True)
    standardised = (exact - exact.mean(dim=1, keepdim=True)) / spread
    return torch.where(zero_advantage_groups(rewards)[:, None], 0.0, standardised).float()


def zero_advantage_groups(rewards: Float[Tensor, "prompts group"]) -> Bool[Tensor, " prompts"]:
    """True for zero-advantage groups: those whose rewards are all equal."""
    return rewards.amax(dim=1) == rewards.amin(dim=1)
