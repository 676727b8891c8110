"""Checks before a training: an empty split and prompts without room for a response are refused."""

from collections.abc import Sequence

import pytest

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.evaluation import EvaluationConfig
from gspo_rl.preflight import check_settings, check_task
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.policy import tiny_policy
from triptych.distributed import World
from triptych.errors import UserError
from triptych.strategy.ddp import DDPStrategy

POLICY = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=16)


class Texts:
    """A task of given prompts."""

    def __init__(self, train: Sequence[str], held_out: Sequence[str]) -> None:
        self._texts = {"train": train, "held_out": held_out}

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt(text, "") for text in self._texts[split]]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return 0.0


@pytest.mark.parametrize(("train", "held_out", "split"), [([], ["1"], "train"), (["1"], [], "held_out")])
def test_an_empty_split_is_refused(train: list[str], held_out: list[str], split: str) -> None:
    with pytest.raises(UserError, match=f"its {split} split has no prompt"):
        check_task(POLICY, Texts(train, held_out), SamplingConfig(max_tokens=4), EvaluationConfig())


def test_every_prompt_of_a_list_must_leave_room_for_a_response() -> None:
    texts = ["1+1="] * 500
    length = len(POLICY.encode(Prompt("1+1=", "")))
    check_task(POLICY, Texts(texts, texts), SamplingConfig(max_tokens=16 - length), EvaluationConfig())
    with pytest.raises(UserError, match=f"the longest prompt has {length} tokens and sampling.max_tokens is {17 - length}"):
        check_task(POLICY, Texts(texts, texts), SamplingConfig(max_tokens=17 - length), EvaluationConfig())
    with pytest.raises(UserError, match="the longest prompt has"):
        check_task(POLICY, Texts([*texts, "1" * 20], texts), SamplingConfig(max_tokens=2), EvaluationConfig())


def test_greedy_rollouts_are_refused() -> None:
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    with pytest.raises(UserError, match="all samples of a prompt would be equal"):
        check_settings(POLICY, StaticCacheEngine(POLICY), strategy, SamplingConfig(temperature=0), old_logprobs="engine")
