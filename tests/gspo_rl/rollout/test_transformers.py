"""The transformers engine: one prefill per distinct prompt, and the log-probabilities of a plain forward for every cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from gspo_rl.data.batch import Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.transformers import TransformersEngine

PROMPTS = [Prompt(text, "") for text in ("1+1=", "123+4567=", "1", "99+1=")]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 128, "head_dim": 8,
}  # fmt: skip
MODELS: list[tuple[type[Any], type[PreTrainedModel], dict[str, Any]]] = [
    (LlamaConfig, LlamaForCausalLM, {}),
    (MistralConfig, MistralForCausalLM, {"sliding_window": 4}),
    (Gemma2Config, Gemma2ForCausalLM, {"sliding_window": 4}),
    (LlamaConfig, LlamaForCausalLM, {"use_cache": False}),
    (Lfm2Config, Lfm2ForCausalLM, {}),
    (MambaConfig, MambaForCausalLM, {}),
    (Qwen3MoeConfig, Qwen3MoeForCausalLM, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
]


Build = Callable[[type[Any], type[PreTrainedModel], dict[str, Any]], Policy]


@pytest.fixture
def policy_of(small_policy: Policy) -> Build:
    """Builds a random policy of another architecture over the characters of the small one."""

    def build(config: type[Any], model: type[PreTrainedModel], more: dict[str, Any]) -> Policy:
        torch.manual_seed(0)
        return Policy(model(config(**SIZES, **more, vocab_size=len(small_policy.tokenizer))).eval(), small_policy.tokenizer)

    return build


@pytest.mark.parametrize(("config", "model", "more"), MODELS, ids=[f"{model.__name__}{more}" for _, model, more in MODELS])
def test_logprobs_are_those_of_a_plain_forward(
    config: type[Any], model: type[PreTrainedModel], more: dict[str, Any], policy_of: Build
) -> None:
    """Left-padded prompts of four lengths, one of a single token, three samples each."""
    policy = policy_of(config, model, more)
    completions = TransformersEngine(policy).generate(PROMPTS, 3, SamplingConfig(max_tokens=8), seeds=range(12))
    for item in completions:
        ids = torch.tensor([[*item.prompt_ids, *item.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[0].float(), -1)
        expected = logprobs[len(item.prompt_ids) - 1 : -1].gather(-1, item.token_ids[:, None])[:, 0]
        # float32 sums of about 100 terms, in another order.
        torch.testing.assert_close(item.logprobs, expected, rtol=0, atol=1e-5)


def test_a_prescribed_cache_is_left_to_generate(policy_of: Build) -> None:
    policy = policy_of(*MODELS[0])
    plain = TransformersEngine(policy).generate(PROMPTS, 2, SamplingConfig(max_tokens=4), seeds=range(8))
    policy.model.generation_config.cache_implementation = "static"
    prescribed = TransformersEngine(policy).generate(PROMPTS, 2, SamplingConfig(max_tokens=4), seeds=range(8))
    assert [item.token_ids.tolist() for item in plain] == [item.token_ids.tolist() for item in prescribed]


def test_each_distinct_prompt_is_prefilled_once_for_its_samples(policy_of: Build) -> None:
    policy = policy_of(*MODELS[0])
    shapes: list[tuple[int, int]] = []
    policy.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    TransformersEngine(policy).generate(PROMPTS[:2], 5, SamplingConfig(max_tokens=4), seeds=range(10))
    longest = max(len(policy.encode(prompt)) for prompt in PROMPTS[:2])
    assert shapes[0] == (2, longest - 1), "two prompts, whatever the number of samples"
    assert all(shape == (10, 1) for shape in shapes[1:]), "then one token of every sample at a time"


def test_the_batch_limit_does_not_change_the_samples(policy_of: Build) -> None:
    policy = policy_of(*MODELS[0])
    whole, parts = (
        TransformersEngine(policy, max_batch=size).generate(PROMPTS, 3, SamplingConfig(max_tokens=6), seeds=range(12)) for size in (256, 5)
    )
    assert [item.token_ids.tolist() for item in whole] == [item.token_ids.tolist() for item in parts]
