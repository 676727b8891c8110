"""Rectified flow: the straight path from data to noise, its velocity, timesteps, and the Euler step back.

Times run from 0 (data) to 1 (noise), as in FLUX and LTX-Video.

Source: flow matching (arXiv 2210.02747), rectified flow (arXiv 2209.03003), the densities of Stable Diffusion 3
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
    """How the noise levels of training targets are drawn, and what their losses weigh.

    Attributes:
        timestep_mean: mean of the logit of the targets' noise levels, see `sample_timesteps`.
        timestep_deviation: its standard deviation.
        fraction_at_one: share of pure noise beside them.
        weight_floor: noise level below which the loss is weighted no higher.

    Raises:
        UserError: if a value is out of range.
    """

    timestep_mean: float = 0.9
    timestep_deviation: float = 1.3
    fraction_at_one: float = 0.15
    weight_floor: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_at_one <= 1:
            raise UserError(f"loss.fraction_at_one is {self.fraction_at_one}: it must lie between 0 and 1")
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
    share = _per_frame(timesteps, data)
    return (1 - share) * data + share * noise


def velocity_of(
    noisy: Float[Tensor, "frames ..."], predicted: Float[Tensor, "frames ..."], timesteps: Float[Tensor, " frames"], *, floor: float
) -> Float[Tensor, "frames ..."]:
    """The velocity that a prediction of the data stands for, `(x_t - x) / max(t, floor)`.

    Args:
        noisy: points on the path.
        predicted: the model's data.
        timesteps: one per frame.
        floor: smallest divisor; the quotient is 0 / 0 at the data's end of the path.
    """
    return (noisy - predicted) / _per_frame(timesteps.clamp(min=floor), noisy)


def euler_step(
    noisy: Float[Tensor, "frames ..."], velocity: Float[Tensor, "frames ..."], begin: Tensor, end: Tensor
) -> Float[Tensor, "frames ..."]:
    """The point at time `end` of a path that leaves `noisy` at time `begin` with a constant velocity.

    Args:
        noisy: points on the path.
        velocity: of the same shape.
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
    """The end of the paths that leave `noisy`, by Euler steps.

    Args:
        velocity: of points and their times, (batch, frames) each; in the shape of the points.
        noisy: where the paths begin.
        times: from 1 (noise) to 0 (data).
        free: 1 for a frame that moves, 0 for one that is given and stays.
    """
    for begin, end in pairwise(times):
        found = velocity(noisy, free * begin)
        moved = euler_step(noisy.flatten(0, 1), found.flatten(0, 1), (free * begin).flatten(), (free * end).flatten())
        noisy = moved.view_as(noisy)
    return noisy


def shift_timesteps(timesteps: Float[Tensor, "*values"], shift: float) -> Float[Tensor, "*values"]:
    """Times moved towards noise: `s t / (1 + (s - 1) t)`; 1 leaves them.

    Source: arXiv 2403.03206, section 5.3.2.

    Raises:
        UserError: if the shift is not positive.

    Example:
        >>> import torch
        >>> shift_timesteps(torch.tensor([0.0, 0.5, 1.0]), 3.0)
        tensor([0.0000, 0.7500, 1.0000])
    """
    if not shift > 0:
        raise UserError(f"shift is {shift}: it must be above 0, and 1 for none")
    return shift * timesteps / (1 + (shift - 1) * timesteps)


def sampling_timesteps(num_steps: int, *, shift: float = 1.0) -> Float[Tensor, " times"]:
    """The times of a sampler, from 1 to 0, `num_steps + 1` of them, float32.

    Raises:
        UserError: if there is no step.
    """
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}: it must be 1 or more")
    # In float64, so that a shifted 1 is 1.
    return shift_timesteps(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64), shift).float()


def sample_timesteps(
    count: int, *, mean: float, deviation: float, fraction_at_one: float, generator: torch.Generator
) -> Float[Tensor, " frames"]:
    """Times for training, logit-normal, with a share of them exactly 1.

    At low times a frame shows who is in it, and memory gets no gradient: a density that leans towards noise makes the
    model look at its memory.

    Source: arXiv 2403.03206, section 3.1.

    Args:
        count: how many.
        mean, deviation: of the logit of t.
        fraction_at_one: probability of pure noise.
        generator: the random stream.

    Raises:
        UserError: if the deviation is negative or the share is no probability.
    """
    if deviation < 0 or not 0 <= fraction_at_one <= 1:
        raise UserError(f"timesteps of deviation {deviation} with a share of {fraction_at_one} at 1: need 0 or more, and between 0 and 1")
    drawn = torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))
    pure = torch.rand(count, generator=generator) < fraction_at_one
    return torch.where(pure, torch.ones_like(drawn), drawn)


def loss_weights(timesteps: Float[Tensor, " frames"], *, floor: float) -> Float[Tensor, " frames"]:
    """Weights `1 / max(t, floor)` of a squared error of the data: between the velocity's (1 / t^2) and the data's (1)."""
    return 1 / timesteps.clamp(min=floor)


def frame_losses(
    predicted: Float[Tensor, "frames channels height width"], data: Float[Tensor, "frames channels height width"]
) -> Float[Tensor, " frames"]:
    """Mean squared error of every frame, unreduced, float32."""
    return (predicted.float() - data.float()).square().flatten(1).mean(1)


def _per_frame(timesteps: Tensor, like: Tensor) -> Tensor:
    """One time per frame, ready to be multiplied with the frames' values."""
    return timesteps.reshape(-1, *[1] * (like.dim() - 1)) if timesteps.dim() else timesteps
