"""Resampling schemes: indices of surviving particles from log-weights."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.errors import UserError

SCHEMES = ("multinomial", "systematic", "without_replacement", "top")


def resample(log_weights: Float[Tensor, " particles"], count: int, scheme: str, *, generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` indices of surviving particles.

    `multinomial` (the paper) samples independently with replacement. `systematic` places `count` equally spaced
    pointers with one random offset, so that a particle of weight w survives floor(count w) or ceil(count w) times.
    `without_replacement` samples distinct particles sequentially in proportion to the remaining weights, by the
    Gumbel-top-k trick (arXiv 1903.06059). `top` takes the particles of largest weight.

    Args:
        log_weights: normalised, float64.
        count: number of survivors.
        scheme: one of `SCHEMES`.
        generator: the random stream.

    Raises:
        UserError: if the scheme is unknown, or the scheme needs distinct particles and there are too few.
    """
    particles = len(log_weights)
    if scheme in ("without_replacement", "top") and count > particles:
        raise UserError(f"scheme {scheme} cannot choose {count} of {particles} particles: use multinomial or systematic to grow")
    if scheme == "multinomial":
        return torch.multinomial(log_weights.exp(), count, replacement=True, generator=generator)
    if scheme == "systematic":
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        pointers = (torch.arange(count, dtype=torch.float64) + offset) / count
        return torch.searchsorted(log_weights.exp().cumsum(0), pointers, right=True).clamp(max=particles - 1)
    if scheme == "without_replacement":
        uniform = torch.rand(particles, generator=generator, dtype=torch.float64).clamp(min=1e-300)
        return (log_weights - (-uniform.log()).log()).topk(count).indices
    if scheme == "top":
        return log_weights.sort(descending=True, stable=True).indices[:count]
    raise UserError(f"scheme is '{scheme}': choose one of {', '.join(SCHEMES)}")
