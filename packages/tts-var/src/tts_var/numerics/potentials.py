"""Potentials of particles from the rewards of their lineage, and resampling weights.

Source: TTS-VAR (arXiv 2507.18537), section 3.3.
"""

from jaxtyping import Float
from torch import Tensor

from triptych.errors import UserError

POTENTIALS = ("value", "difference", "maximum", "sum")


def potential(history: Float[Tensor, "*particles events"], name: str) -> Float[Tensor, "*particles"]:
    """The potential of each particle.

    `value` is the newest reward, `difference` the newest minus the one before (the newest alone at the first
    event), `maximum` and `sum` reduce the whole history.

    Args:
        history: rewards along the particle's lineage, oldest first, at least one.
        name: one of `POTENTIALS`.

    Raises:
        UserError: if the name is unknown.

    Example:
        >>> import torch
        >>> potential(torch.tensor([[1.0, 3.0, 2.0]]), "difference")
        tensor([-1.])
    """
    if name == "value":
        return history[..., -1]
    if name == "difference":
        return history[..., -1] - history[..., -2] if history.shape[-1] > 1 else history[..., -1]
    if name == "maximum":
        return history.amax(-1)
    if name == "sum":
        return history.sum(-1)
    raise UserError(f"potential is '{name}': choose one of {', '.join(POTENTIALS)}")


def log_weights(potentials: Float[Tensor, "*prompts particles"], strength: float) -> Float[Tensor, "*prompts particles"]:
    """Normalised log-weights `log softmax(strength * potential)`; 0 makes them uniform.

    In log space because `exp(strength * potential)` overflows float32 beyond 88.
    """
    return (strength * potentials.double()).log_softmax(-1)


def effective_sample_size(log_weights: Float[Tensor, "*prompts particles"]) -> Float[Tensor, "*prompts"]:
    """`1 / sum w^2` of normalised weights: between 1 (one particle has all the weight) and the number of particles."""
    return (-(2 * log_weights).logsumexp(-1)).exp()
