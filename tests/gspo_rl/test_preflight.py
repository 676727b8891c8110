"""Checks before a training: an empty split and prompts without room for a response are refused."""

from collections.abc import Sequence

import pytest

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.preflight import PromptConfig, check_settings, usable_prompts
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.policy import tiny_policy
from triptych.distributed import World
from triptych.errors import UserError
from triptych.strategy.ddp import DDPStrategy
from triptych.telemetry.logging import setup_logging

POLICY = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=16)


class Texts:
    """A task of given prompts."""

    def __init__(self, train: Sequence[str], held_out: Sequence[str]) -> None:
        self._texts = {"train": train, "held_out": held_out}

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt(text, "") for text in self._texts[split]]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return 0.0


LENGTH = len(POLICY.encode(Prompt("1+1=", "")))


@pytest.mark.parametrize("overlong", ["refuse", "drop"])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_an_empty_split_is_refused(split: str, overlong: str) -> None:
    with pytest.raises(UserError, match=f"its {split} split has no prompt"):
        usable_prompts(POLICY, Texts([], []), split, SamplingConfig(max_tokens=4), PromptConfig(overlong=overlong))


def test_every_prompt_of_a_list_must_leave_room_for_a_response() -> None:
    texts = ["1+1="] * 500
    limits = PromptConfig()
    assert list(usable_prompts(POLICY, Texts(texts, texts), "train", SamplingConfig(max_tokens=16 - LENGTH), limits)) == list(range(500))
    with pytest.raises(UserError, match=f"the longest prompt of the train split has {LENGTH} tokens, and sampling.max_tokens leaves"):
        usable_prompts(POLICY, Texts(texts, texts), "train", SamplingConfig(max_tokens=17 - LENGTH), limits)
    with pytest.raises(UserError, match="prompts.overlong=drop"):
        usable_prompts(POLICY, Texts([*texts, "1" * 20], texts), "train", SamplingConfig(max_tokens=2), limits)
    with pytest.raises(UserError, match="and prompts.max_tokens is 3"):
        usable_prompts(POLICY, Texts(texts, texts), "train", SamplingConfig(max_tokens=2), PromptConfig(max_tokens=3))


def test_overlong_prompts_are_left_out_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0, world_size=1)
    texts = ["1+1=", "1" * 20, "1+1=", "1" * 20, "1" * 14, "2"]
    task, drop = Texts(texts, []), PromptConfig(overlong="drop")
    assert list(usable_prompts(POLICY, task, "train", SamplingConfig(max_tokens=2), drop)) == [0, 2, 4, 5]
    assert "2 of 6 prompts of the train split have more than 14 tokens and are left out" in capsys.readouterr().out
    assert list(usable_prompts(POLICY, task, "train", SamplingConfig(max_tokens=2), drop, most=2)) == [0, 2]
    assert "1 of 3 prompts of the train split" in capsys.readouterr().out
    assert list(usable_prompts(POLICY, task, "train", SamplingConfig(max_tokens=2), PromptConfig(1, "drop"))) == [5]
    with pytest.raises(UserError, match="all 6 prompts of the train split have more than 0 tokens"):
        usable_prompts(POLICY, task, "train", SamplingConfig(max_tokens=16), drop)
    with pytest.raises(UserError, match="prompts.overlong is 'cut': choose one of refuse, drop"):
        PromptConfig(overlong="cut")


def test_greedy_rollouts_are_refused() -> None:
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    with pytest.raises(UserError, match="all samples of a prompt would be equal"):
        check_settings(POLICY, StaticCacheEngine(POLICY), strategy, SamplingConfig(temperature=0), old_logprobs="engine")
