"""Completions from sampled tokens: rows cut after the first end of sequence, left padding, and refusal of a diverged policy."""

import pytest
import torch

from gspo_rl.data.batch import Prompt, left_padded
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.completions import build_completions, encode_prompts
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.stopping import Stops
from triptych.errors import UserError


@pytest.fixture
def policy(small_policy: Policy) -> Policy:
    return small_policy


def test_a_row_ends_with_its_first_end_of_sequence(policy: Policy) -> None:
    (end,), other = policy.eos_ids, [token for token in range(8) if token not in policy.eos_ids]
    tokens = torch.tensor([[other[0], end, other[1], end], [end, other[0], other[0], other[0]], other[:4]])
    logprobs = -torch.arange(12.0).view(3, 4)
    completions = build_completions(Stops(policy, SamplingConfig()), [(1,), (2,), (3,)], tokens, logprobs, weight_version=7)
    assert [item.token_ids.tolist() for item in completions] == [[other[0], end], [end], other[:4]]
    assert [item.logprobs.tolist() for item in completions] == [[0.0, -1.0], [-4.0], [-8.0, -9.0, -10.0, -11.0]]
    assert [item.finished for item in completions] == [True, True, False]
    assert [item.prompt_ids for item in completions] == [(1,), (2,), (3,)]
    assert {item.weight_version for item in completions} == {7}
    tokens.zero_()
    assert completions[2].token_ids.tolist() == other[:4], "a completion does not share memory with the sampler"


def test_log_probabilities_after_the_end_do_not_matter_and_others_must_be_finite(policy: Policy) -> None:
    (end,) = policy.eos_ids
    tokens = torch.tensor([[end, end]])
    build_completions(Stops(policy, SamplingConfig()), [(1,)], tokens, torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(UserError, match="log-probabilities are not finite: lower optimizer.learning_rate"):
        build_completions(Stops(policy, SamplingConfig()), [(1,)], tokens, torch.tensor([[float("-inf"), 0.0]]))


def test_prompts_end_at_one_position() -> None:
    ids, real = left_padded([(5,), (6, 7, 8)], pad_id=0)
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert real.tolist() == [[False, False, True], [True, True, True]]


def test_a_prompt_is_encoded_once_and_shared_by_its_samples(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    encode = policy.encode

    def counted(prompt: Prompt) -> tuple[int, ...]:
        calls.append(prompt.text)
        return encode(prompt)

    monkeypatch.setattr(policy, "encode", counted)
    encoded = encode_prompts(policy, [Prompt("1+1=", ""), Prompt("2+2=", "")], 3, SamplingConfig(max_tokens=4))
    assert calls == ["1+1=", "2+2="]
    assert [encoded.index(ids) for ids in encoded] == [0, 0, 0, 3, 3, 3]
    assert encoded[0] is encoded[2]
