"""From logits to streams: guidance, top-k, top-p, and the inverse of the cumulative distribution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.errors import UserError


def guided_logits(conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], guidance: float) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: `g z_cond + (1 - g) z_uncond`; 1 is no guidance.

    Source: arXiv 2207.12598, equation 6, in the parametrisation of Infinity.
    """
    return guidance * conditional + (1.0 - guidance) * unconditional


def filter_logits(logits: Float[Tensor, "*rest classes"], *, top_k: int = 0, top_p: float = 0.0) -> Float[Tensor, "*rest classes"]:
    """Logits with the classes outside top-k and then top-p at minus infinity.

    A class goes if the classes up to it, from the least probable on, hold at most `1 - top_p`; the most probable
    always stays.

    Args:
        logits: unnormalised log-probabilities.
        top_k: classes that stay; 0 keeps all.
        top_p: probability mass that stays; 0 keeps all.

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
    probabilities: Float[Tensor, "rows draws classes"], uniform: Float[Tensor, "rows draws"]
) -> Int[Tensor, "rows draws"]:
    """The class at which the cumulative distribution passes a uniform number in [0, 1)."""
    chosen = (probabilities.cumsum(-1)[..., :-1] <= uniform[..., None]).sum(-1)
    # A class of probability 0 at the end must not be chosen because rounding left the sum below the number.
    numbers = torch.arange(probabilities.shape[-1], device=probabilities.device)
    last = ((probabilities > 0) * numbers).amax(-1)
    return torch.minimum(chosen, last)
