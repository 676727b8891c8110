"""The noise floor of the importance ratio: what it measures while the weights are unchanged."""

from collections.abc import Callable

import torch
from torch import Tensor

from gspo_rl.data.batch import Batch
from gspo_rl.numerics.objectives import Objective
from triptych.distributed import World


@torch.no_grad()
def noise_floor(score: Callable[[Batch, int | None], Tensor], objective: Objective, batch: Batch, world: World) -> dict[str, float]:
    """Bias and spread of log s between the sampler and the trainer, and between two batchings of the trainer.

    All three scores are of the same weights, so every deviation from 0 is rounding. It matters in units of the clip range: noise of one
    clip width clips a third of the sequences of a policy that has not moved.

    Args:
        score: log-probabilities of a batch, (rows, tokens), in micro-batches of at most that number of padded tokens; None for the
            usual number.
        objective: its ratio and clip range.
        batch: this rank's sequences, sampled by these weights.
        world: the ranks.

    Returns:
        `noise/<pair>_bias` and `noise/<pair>_spread` of log s, and `noise/<pair>_clip_widths`, the root mean square of |log s| in clip
        widths, for the pairs `sampler` and `batching`. Empty for an objective without a sequence ratio.
    """
    usual = score(batch, None)
    halves = score(batch, max(1, batch.input_ids.numel() // 2))
    metrics: dict[str, float] = {}
    for name, one, other in (("sampler", usual, batch.sampler_logprobs), ("batching", halves, usual)):
        found = objective(one, other, batch.advantages, batch.response_mask, behavior_logprobs=other).metrics
        if "log_ratio" not in found or "ratio_clip_widths" not in found:
            return {}
        log_ratio, widths = (world.all_gather(found[key].double()) for key in ("log_ratio", "ratio_clip_widths"))
        metrics[f"noise/{name}_bias"] = float(log_ratio.mean())
        metrics[f"noise/{name}_spread"] = float(log_ratio.std(correction=0))
        metrics[f"noise/{name}_clip_widths"] = float(widths.square().mean().sqrt())
    return metrics
