"""Low-rank training: what is trained, sampled, saved and exported is the sum of the weights and the update."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from gspo_rl.data.batch import Prompt
from gspo_rl.models.export import export_policy
from gspo_rl.models.lora import LoRA
from gspo_rl.models.policy import Policy, pretrained_policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.toy.policy import character_tokenizer
from triptych.checkpoint.export import state_shapes
from triptych.errors import UserError

IDS = torch.tensor([[5, 6, 7, 8, 9, 20]])


def gpt2() -> Policy:
    """A model whose linear layers hold transposed matrices, some of them square."""
    tokenizer = character_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return Policy(GPT2LMHeadModel(config), tokenizer)


def adapted(policy: Policy) -> Policy:
    """The policy with an update that is not 0."""
    policy.train_with(LoRA(rank=4, alpha=12))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
    return policy


@pytest.fixture(params=["qwen", "gpt2", "moe"])
def policy(request: pytest.FixtureRequest, random_policy: Callable[..., Policy]) -> Policy:
    if request.param == "moe":  # the experts are parameters, not layers
        return random_policy(family="Qwen3Moe", moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    return random_policy() if request.param == "qwen" else gpt2()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS).logits
    return found


def test_the_update_begins_at_zero_and_is_all_that_is_trained(policy: Policy) -> None:
    before = logits(policy.model)
    num_parameters = policy.num_parameters
    policy.train_with(LoRA(rank=4, alpha=12))
    assert torch.equal(logits(policy.model), before)
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(re.search(r"\.lora_[AB]\.", name) for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)
    assert policy.num_trainable == policy.num_parameters - num_parameters
    assert not any(module.training for module in policy.model.modules())


def test_the_start_does_not_depend_on_the_random_stream(random_policy: Callable[..., Policy]) -> None:
    starts = []
    for seed in (1, 2):
        policy = random_policy()
        torch.manual_seed(seed)
        policy.train_with(LoRA(rank=4, alpha=12))
        assert torch.initial_seed() == seed
        starts.append({name: own for name, own in policy.model.state_dict().items() if ".lora_A." in name})
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_a_saved_policy_needs_no_peft_and_its_adapter_gives_the_same(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "base")
    plain = logits(policy.model)
    found = logits(adapted(policy).model)
    assert (found - plain).abs().max() > 0.01, "the case has no update"
    policy.save(tmp_path / "saved")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "saved"))
    assert before.keys() == after.keys()
    # float32: the sum of the weights rounds otherwise than the sum of the products
    torch.testing.assert_close(logits(pretrained_policy(str(tmp_path / "saved")).model), found, rtol=0, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter"))
    torch.testing.assert_close(logits(wrapped.eval()), found, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_an_exported_checkpoint_is_the_saved_policy(policy: Policy, tmp_path: Path) -> None:
    adapted(policy)
    files, output = tmp_path / "files", tmp_path / "exported"
    files.mkdir()
    output.mkdir()
    policy.save_files(files)
    assert json.loads((files / "adapter.json").read_text()) == {"rank": 4, "alpha": 12, "targets": "all-linear"}
    state = policy.scorer.state_dict()
    export_policy(files, {name: state[name].clone() for name in state_shapes(policy.scorer)}, output)
    assert not (output / "adapter.json").exists()
    torch.testing.assert_close(logits(pretrained_policy(str(output)).model), logits(policy.model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", [StaticCacheEngine, TransformersEngine])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_engines_sample_with_the_update(engine: Any, dtype: str | None, small_policy: Policy, tmp_path: Path) -> None:
    sampler = engine(small_policy, dtype=dtype) if dtype is None else None
    adapted(small_policy)
    sampler = sampler or engine(small_policy, dtype=dtype)
    with torch.no_grad():
        for parameter in small_policy.model.parameters():
            parameter.mul_(1.1 if parameter.requires_grad else 1.0)
    sampler.update_weights(small_policy.scorer.named_parameters(), version=1)
    small_policy.save(tmp_path)
    merged = pretrained_policy(str(tmp_path))
    prompts, sampling = [Prompt("1+2=", ""), Prompt("what?", "")], SamplingConfig(max_tokens=12)
    for completion in sampler.generate(prompts, 2, sampling, seeds=range(4)):
        ids = torch.tensor([[*completion.prompt_ids, *completion.token_ids.tolist()]])
        with torch.no_grad():
            distribution = torch.log_softmax(merged.model(ids).logits[0], -1)
        start = len(completion.prompt_ids)
        expected = distribution[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)
        assert (completion.logprobs - expected).abs().max() < (1e-4 if dtype is None else 0.3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("nothing_like_it", "adapter.targets is 'nothing_like_it'"),
        ("q_proj,lm_head", "which names the head of the model: leave it out"),
        ("q_proj,embed_tokens", "which names an embedding"),
        ("q_proj,typo_proj", "no layer ends in 'typo_proj'"),
    ],
)
def test_impossible_targets_are_refused(small_policy: Policy, targets: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_policy.train_with(LoRA(rank=2, targets=targets))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 2, "alpha": 0}, {"rank": 1.5}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="1 or more"):
        LoRA(**wrong)
