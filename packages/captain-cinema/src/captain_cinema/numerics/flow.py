"""Rectified flow: interpolation between data and noise, velocities, timesteps and Euler sampling.

Times run from 0 (data) to 1 (noise), as in FLUX and LTX-Video.

Source: flow matching (arXiv 2210.02747), rectified flow (arXiv 2209.03003), the timestep densities of Stable Diffusion 3
(arXiv 2403.03206).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.errors import UserError


@dataclass
class NoiseLevels:
    """Distribution of the noise levels of training targets, and the weights of their losses.

    Attributes:
        timestep_mean: mean of the logit of the noise levels, see `sample_timesteps`.
        timestep_deviation: its standard deviation.
        fraction_at_one: fraction of targets at pure noise.
        weight_floor: noise level below which the loss weight is constant.

    Raises:
        UserError: if a value is out of range.
    """

    timestep_mean: float = 0.9
    timestep_deviation: float = 1.3
    fraction_at_one: float = 0.15
    weight_floor: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_at_one <= 1:
            raise UserError(f"loss.fraction_at_one is {self.fraction_at_one}: it must be between 0 and 1")
        if not self.weight_floor > 0 or self.timestep_deviation < 0:
            raise UserError(
                f"loss.weight_floor is {self.weight_floor} and timestep_deviation {self.timestep_deviation}: give above 0, and 0 or more"
            )

    def sample(self, count: int, *, generator: torch.Generator) -> Float[Tensor, " frames"]:
        """`count` noise levels, float32."""
        return sample_timesteps(
            count, mean=self.timestep_mean, deviation=self.timestep_deviation, fraction_at_one=self.fraction_at_one, generator=generator
        )


def interpolate(
    data: Float[Tensor, "frames ..."], noise: Float[Tensor, "frames ..."], timesteps: Float[Tensor, " frames"]
) -> Float[Tensor, "frames ..."]:
    """The point on the straight path of every frame, `(1 - t) x + t eps`."""
    time = _per_frame(timesteps, data)
    return (1 - time) * data + time * noise


def velocity_of(
    noisy: Float[Tensor, "frames ..."], predicted: Float[Tensor, "frames ..."], timesteps: Float[Tensor, " frames"], *, floor: float
) -> Float[Tensor, "frames ..."]:
    """The velocity of a predicted data point, `(x_t - x) / max(t, floor)`.

    Args:
        noisy: points on the path.
        predicted: predicted data.
        timesteps: one per frame.
        floor: smallest divisor; the quotient is 0 / 0 at time 0.
    """
    return (noisy - predicted) / _per_frame(timesteps.clamp(min=floor), noisy)


def euler_step(
    noisy: Float[Tensor, "frames ..."], velocity: Float[Tensor, "frames ..."], begin: Tensor, end: Tensor
) -> Float[Tensor, "frames ..."]:
    """One Euler step from time `begin` to time `end`, `x + (end - begin) v`.

    Args:
        noisy: points at time `begin`.
        velocity: velocities, in the shape of the points.
        begin, end: times, scalars or one per frame.
    """
    return noisy + _per_frame(torch.as_tensor(end - begin), noisy) * velocity


def euler_sample(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noisy: Float[Tensor, "batch frames ..."],
    times: Sequence[float],
    *,
    free: Float[Tensor, "batch frames"],
) -> Float[Tensor, "batch frames ..."]:
    """The data at the end of the Euler steps that start from `noisy`.

    Args:
        velocity: function of points (batch, frames, ...) and times (batch, frames); returns the shape of the points.
        noisy: points at the first time.
        times: from 1 (noise) to 0 (data).
        free: 1 for frames to denoise, 0 for given frames, which stay fixed at time 0.
    """
    for begin, end in pairwise(times):
        # A fixed frame has time 0 at both ends: its step has length 0, and the model takes it as clean.
        velocities = velocity(noisy, free * begin)
        moved = euler_step(noisy.flatten(0, 1), velocities.flatten(0, 1), (free * begin).flatten(), (free * end).flatten())
        noisy = moved.view_as(noisy)
    return noisy


def shift_timesteps(timesteps: Float[Tensor, "*values"], shift: float) -> Float[Tensor, "*values"]:
    """Times shifted towards noise: `s t / (1 + (s - 1) t)`; the identity for `s = 1`.

    Source: arXiv 2403.03206, section 5.3.2.

    Raises:
        UserError: if the shift is not positive.

    Example:
        >>> import torch
        >>> shift_timesteps(torch.tensor([0.0, 0.5, 1.0]), 3.0)
        tensor([0.0000, 0.7500, 1.0000])
    """
    if not shift > 0:
        raise UserError(f"shift is {shift}: it must be above 0 (1 for no shift)")
    return shift * timesteps / (1 + (shift - 1) * timesteps)


def sampling_timesteps(num_steps: int, *, shift: float = 1.0) -> Float[Tensor, " times"]:
    """The `num_steps + 1` times of a sampler, from 1 to 0, float32.

    Raises:
        UserError: if `num_steps` is below 1.
    """
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}: it must be 1 or more")
    # In float64, so that time 1 is exactly 1 after the shift.
    return shift_timesteps(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64), shift).float()


def sample_timesteps(
    count: int, *, mean: float, deviation: float, fraction_at_one: float, generator: torch.Generator
) -> Float[Tensor, " frames"]:
    """Training times, logit-normal, with a fraction of exactly 1.

    At low times the noisy frame itself shows the character and the memory receives little gradient, so the density should favour
    high times.

    Source: arXiv 2403.03206, section 3.1.

    Args:
        count: number of times.
        mean, deviation: mean and standard deviation of the logit of t.
        fraction_at_one: probability of pure noise.
        generator: the random stream.

    Raises:
        UserError: if `deviation` is negative or `fraction_at_one` is not between 0 and 1.
    """
    if deviation < 0:
        raise UserError(f"deviation is {deviation}: it must be 0 or more")
    if not 0 <= fraction_at_one <= 1:
        raise UserError(f"fraction_at_one is {fraction_at_one}: it must be between 0 and 1")
    times = torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))
    pure = torch.rand(count, generator=generator) < fraction_at_one
    return torch.where(pure, torch.ones_like(times), times)


def loss_weights(timesteps: Float[Tensor, " frames"], *, floor: float) -> Float[Tensor, " frames"]:
    """Weights `1 / max(t, floor)` of squared errors of the data, between those of a velocity loss (1 / t^2) and a data loss (1)."""
    return 1 / timesteps.clamp(min=floor)


def frame_losses(
    predicted: Float[Tensor, "frames channels height width"], data: Float[Tensor, "frames channels height width"]
) -> Float[Tensor, " frames"]:
    """Mean squared error of every frame, unreduced, float32."""
    return (predicted.float() - data.float()).square().flatten(1).mean(1)


def _per_frame(timesteps: Tensor, like: Tensor) -> Tensor:
    """One time per frame, shaped (frames, 1, ...) to broadcast over `like`; scalars stay scalars."""
    return timesteps.reshape(-1, *[1] * (like.dim() - 1)) if timesteps.dim() else timesteps
