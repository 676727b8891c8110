"""The choice of an engine by the architecture of the policy."""

from collections.abc import Callable
from typing import Any

import pytest

from gspo_rl.models.policy import Policy
from gspo_rl.rollout.fastest import fastest_engine
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine


@pytest.mark.parametrize(
    ("family", "options", "engine"),
    [
        ("Qwen3", {}, StaticCacheEngine),
        ("Llama", {}, StaticCacheEngine),
        ("Qwen2", {}, StaticCacheEngine),
        ("Mistral", {"sliding_window": 4}, TransformersEngine),
        ("Llama", {"hidden_act": "gelu"}, TransformersEngine),
    ],
)
def test_the_engine_is_the_fast_one_where_it_serves_the_policy(
    random_policy: Callable[..., Policy], family: str, options: dict[str, Any], engine: type
) -> None:
    found = fastest_engine(random_policy(family=family, **options), max_batch=3, dtype="bfloat16")
    assert type(found) is engine
    assert not found.is_exact
