"""The tiny policy: size, seed, tokenizer."""

import pytest
import torch

from gspo_rl.toy.policy import character_tokenizer, tiny_policy
from triptych.errors import UserError


def test_the_tiny_policy_has_about_a_million_parameters_and_depends_on_its_seed() -> None:
    first, again, other = tiny_policy(seed=1), tiny_policy(seed=1), tiny_policy(seed=2)
    assert 500_000 <= first.num_parameters <= 2_000_000
    weights = [torch.cat([p.flatten() for p in policy.model.parameters()]) for policy in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_building_a_policy_does_not_change_the_global_random_state() -> None:
    before = torch.get_rng_state()
    tiny_policy(hidden_size=16, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=16)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_character_tokenizer_round_trips() -> None:
    tokenizer = character_tokenizer()
    text = "".join(chr(code) for code in range(32, 127)) + "\n  two spaces, 1 + 2 = 3 ."
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="num_heads"):
        tiny_policy(hidden_size=100, num_heads=3)
