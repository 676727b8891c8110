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


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 24}}),
        ("Llama", {"tie_word_embeddings": False}),
        ("Qwen2", {}),
        ("Qwen3", {"attention_bias": True}),
        ("Qwen3", {"head_dim": 16}),
    ],
)  # fmt: skip
def test_families_are_decoded_as_transformers_decodes_them(
    random_policy: Callable[..., Policy], family: str, options: dict[str, Any]
) -> None:
    policy = random_policy(family=family, **options)
    policy.model.generation_config.eos_token_id = list(range(20, 32))
    ours, theirs = (engine(policy).generate(PROMPTS, 2, SAMPLING, seeds=list(range(12))) for engine in ENGINES)
    assert [item.token_ids.tolist() for item in ours] == [item.token_ids.tolist() for item in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs.tolist() == pytest.approx(other.logprobs.tolist(), abs=5e-5)
    assert len({len(item.token_ids) for item in ours}) > 2


@pytest.mark.parametrize(("family", "options"), [("Mistral", {"sliding_window": 8}), ("Gemma", {}), ("Qwen3", {"hidden_act": "gelu"})])
def test_other_families_are_refused(random_policy: Callable[..., Policy], family: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="serves dense Llama, Qwen2 and Qwen3 models"):
        StaticCacheEngine(random_policy(family=family, **options))


def test_prompts_with_a_common_beginning_are_decoded_as_alone(random_policy: Callable[..., Policy]) -> None:
    policy = random_policy(family="Llama")
    prompts = [Prompt(f"<a system message> {text}", "") for text in ("1+2=", "what is this?", "x", "1+2=4", "")]
    seeds = list(range(10))
    together = StaticCacheEngine(policy).generate(prompts, 2, SAMPLING, seeds=seeds)
    alone = [StaticCacheEngine(policy).generate([prompts[index // 2]], 1, SAMPLING, seeds=[index])[0] for index in range(10)]
    assert [item.token_ids.tolist() for item in together] == [item.token_ids.tolist() for item in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs.tolist() == pytest.approx(other.logprobs.tolist(), abs=5e-5)
