"""The static cache: head layouts, and refusal of other architectures."""

from collections.abc import Callable
from typing import Any

import pytest

from gspo_rl.data.batch import Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from triptych.errors import UserError

ENGINES = [StaticCacheEngine, TransformersEngine]


PROMPTS = [Prompt(text, "") for text in ("1+2=", "1+2=", "what is this?", "x", "1+2=", "ab cd")]


SEEDS = [11, 12, 13, 14, 15, 16]


SAMPLING = SamplingConfig(max_tokens=24)


def test_the_static_cache_refuses_other_architectures(small_policy: Policy) -> None:
    small_policy.model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match="rollout=transformers"):
        StaticCacheEngine(small_policy)


@pytest.mark.parametrize("sizes", [{"num_heads": 2, "num_key_value_heads": 2}, {"num_heads": 4, "num_key_value_heads": 1}])
def test_both_engines_agree_on_other_head_layouts(random_policy: Callable[..., Policy], sizes: dict[str, Any]) -> None:
    policy = random_policy(num_layers=3, max_positions=64, seed=3, **sizes)
    outcomes = [engine(policy).generate(PROMPTS, 1, SAMPLING, seeds=SEEDS) for engine in ENGINES]
    assert [item.token_ids.tolist() for item in outcomes[0]] == [item.token_ids.tolist() for item in outcomes[1]]
