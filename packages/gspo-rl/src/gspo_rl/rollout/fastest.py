"""The fastest engine in this process that serves a policy."""

from gspo_rl.models.policy import Policy
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine


def fastest_engine(policy: Policy, *, max_batch: int = 512, dtype: str | None = None) -> RolloutEngine:
    """`StaticCacheEngine` for the architectures that it serves, else `TransformersEngine`.

    Args:
        policy: to sample from.
        max_batch, dtype: of the engine.

    Raises:
        UserError: if `dtype` is unknown.
    """
    engine = StaticCacheEngine if StaticCacheEngine.serves(policy) else TransformersEngine
    return engine(policy, max_batch=max_batch, dtype=dtype)
