"""Small policies that tests share."""

import pytest

from gspo_rl.models.policy import Policy
from gspo_rl.toy.policy import tiny_policy


@pytest.fixture
def small_policy() -> Policy:
    """A random Qwen3 of 2 layers over characters."""
    return tiny_policy(hidden_size=32, num_layers=2, num_heads=4, num_key_value_heads=2, intermediate_size=48, max_positions=96, seed=7)
