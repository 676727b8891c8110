"""Classifier-free guidance, top-k and top-p filters, and sampling by inversion of the cumulative distribution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.errors import UserError


def guided_logits(conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], guidance: float) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: `g z_cond + (1 - g) z_uncond`; 1 is no guidance.

    Source: arXiv 2207.12598, equation 6, in the parametrisation of Infinity.
    """
    return guidance * conditional + (1.0 - guidance) * unconditional


def check_filters(top_k: int, top_p: float) -> None:
    """Checks the arguments of `filter_logits`.

    Raises:
        UserError: if `top_k` is negative, or `top_p` is outside [0, 1].
    """
    if top_k < 0:
        raise UserError(f"top_k is {top_k}: it must be 0 (off) or more")
    if not 0 <= top_p <= 1:
        raise UserError(f"top_p is {top_p}: it must be between 0 (off) and 1")


def filter_logits(logits: Float[Tensor, "*rest classes"], *, top_k: int = 0, top_p: float = 0.0) -> Float[Tensor, "*rest classes"]:
    """Logits with the classes outside top-k and then top-p at minus infinity.

    Top-p removes a class if the cumulative probability up to it, in ascending order, is at most `1 - top_p`; the most
    probable class is always kept.

    Args:
        logits: unnormalised log-probabilities.
        top_k: number of classes kept; 0 keeps all.
        top_p: probability mass kept; 0 keeps all.

    Raises:
        UserError: if a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise UserError("the model's logits are not finite: load its weights in float32 or bfloat16, and check guidance and temperature")
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if 0 < top_p < 1:
        ascending, order = logits.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[..., -1] = False
        logits = logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return logits


def invert_cumulative(
    probabilities: Float[Tensor, "rows samples classes"], uniform: Float[Tensor, "rows samples"]
) -> Int[Tensor, "rows samples"]:
    """The class at which the cumulative distribution exceeds a uniform number in [0, 1)."""
    chosen = (probabilities.cumsum(-1)[..., :-1] <= uniform[..., None]).sum(-1)
    # Rounding can leave the sum below the uniform number: clamp to the last class of positive probability.
    numbers = torch.arange(probabilities.shape[-1], device=probabilities.device)
    last = ((probabilities > 0) * numbers).amax(-1)
    return torch.minimum(chosen, last)
