"""Evaluation of a policy: accuracy, pass@k and lengths of scripted completions by hand, and the same result from any number of ranks."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.evaluation import EvaluationConfig, EvaluationResult, evaluate
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.policy import tiny_policy
from triptych.distributed import World
from triptych.errors import UserError
from triptych.testing import run_distributed

SAMPLING = SamplingConfig(max_tokens=4)


class Letters:
    """A task with one prompt per letter; a response of that letter is correct, its neighbour in the alphabet earns half."""

    def __init__(self, held_out: str, train: str = "xyz") -> None:
        self._letters = {"held_out": held_out, "train": train}

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt(f"{letter}=", letter) for letter in self._letters[split]]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return {0: 1.0, 1: 0.5}.get(abs(ord(completion.text[0]) - ord(prompt.answer)), 0.0)


class ScriptedEngine:
    """Returns given texts, by prompt: the samples in order at a temperature above 0, the last text at temperature 0."""

    is_exact = True

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self._texts = texts

    def generate(self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        assert len(seeds) == len(prompts) * num_samples
        completions = []
        for prompt in prompts:
            *samples, greedy = self._texts[prompt.answer]
            for text in [greedy] if sampling.temperature == 0 else samples[:num_samples]:
                completions.append(Completion((1,), torch.ones(len(text), dtype=torch.long), torch.zeros(len(text)), text, finished=True))
        return completions

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        raise AssertionError("an evaluation does not change weights")

    def close(self) -> None:
        """Holds nothing."""


# Four samples and the greedy response; rewards of a: 1 0 0 1 and 1, of c: 0.5 0 1 0 and 0.5, of e: 0 0 0 0 and 1.
TEXTS = {"a": ["a", "xx", "xxx", "aa", "a"], "c": ["b", "x", "c", "x", "d"], "e": ["x", "x", "x", "xxxx", "e"]}


def scripted(config: EvaluationConfig, **options: Any) -> EvaluationResult:
    return evaluate(ScriptedEngine(TEXTS), Letters("ace"), SAMPLING, config, world=World(), seed=0, **options)


def test_accuracy_counts_full_rewards_only() -> None:
    result = scripted(EvaluationConfig(num_samples=4))
    assert result.per_prompt == (2 / 4, 1 / 4, 0.0)
    assert result.accuracy.mean == pytest.approx((2 / 4 + 1 / 4) / 3)
    assert result.greedy.mean == pytest.approx(2 / 3)  # a and e
    assert result.mean_length == pytest.approx((1 + 2 + 3 + 2 + 4 + 3 + 4) / 12)
    assert result.accuracy.low <= result.accuracy.mean <= result.accuracy.high


def test_pass_at_k_is_the_fraction_of_subsets_with_a_correct_sample() -> None:
    """Reference: all subsets of k of the four samples, one by one."""
    result = scripted(EvaluationConfig(num_samples=4))
    assert list(result.pass_at) == [1, 2, 4]
    correct = [[True, False, False, True], [False, False, True, False], [False] * 4]
    for k, interval in result.pass_at.items():
        fractions = [sum(map(any, combinations(row, k))) / len(list(combinations(row, k))) for row in correct]
        assert interval.mean == pytest.approx(sum(fractions) / 3)
    assert list(scripted(EvaluationConfig(num_samples=3)).pass_at) == [1, 2], "powers of two up to the number of samples"


def test_samples_are_the_first_completions_of_the_first_prompts() -> None:
    rows: list[dict[str, Any]] = []
    result = scripted(EvaluationConfig(num_samples=4), rows=rows)
    assert [tuple(sample) for sample in result.samples] == [("a=", "a", "a", 1.0), ("c=", "c", "b", 0.5), ("e=", "e", "x", 0.0)]
    assert [row["text"] for row in rows] == [text for texts in TEXTS.values() for text in texts], (
        "the greedy one is the last of each prompt"
    )
    assert [row["rewards"]["task"] for row in rows[5:10]] == [0.5, 0.0, 1.0, 0.0, 0.5]
    assert [row["index"] for row in rows] == [0] * 5 + [1] * 5 + [2] * 5
    assert {row["split"] for row in rows} == {"held_out"}


def test_a_task_that_can_tell_has_a_blind_accuracy() -> None:
    class Blind(Letters):
        def blind_reward(self, prompt: Prompt, completion: Completion) -> float:
            return float(completion.text in ("a", "x"))

    config = EvaluationConfig(num_samples=4)
    result = evaluate(ScriptedEngine(TEXTS), Blind("ace"), SAMPLING, config, world=World(), seed=0)
    assert result.blind is not None
    assert result.blind.mean == pytest.approx((1 / 4 + 2 / 4 + 3 / 4) / 3)
    assert result.blind_per_prompt == (0.25, 0.5, 0.75)
    assert result.metrics()["evaluation/accuracy_blind"] == result.blind.mean
    assert EvaluationResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert scripted(config).blind is None


def test_the_number_of_prompts_is_at_most_that_of_the_split() -> None:
    assert len(scripted(EvaluationConfig(num_prompts=2, num_samples=1)).per_prompt) == 2
    assert len(scripted(EvaluationConfig(num_prompts=500, num_samples=1)).per_prompt) == 3


def test_the_split_is_the_configured_one() -> None:
    config = EvaluationConfig(split="train", num_samples=1)
    result = evaluate(ScriptedEngine({"z": ["z", "z"]}), Letters("a", train="z"), SAMPLING, config, world=World(), seed=0)
    assert result.per_prompt == (1.0,)


def test_a_result_survives_json() -> None:
    result = scripted(EvaluationConfig(num_samples=4))
    assert EvaluationResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_metrics_of_training_are_accuracies_and_length() -> None:
    result = scripted(EvaluationConfig(num_samples=4))
    assert result.metrics() == {
        "evaluation/accuracy": result.accuracy.mean,
        "evaluation/accuracy_greedy": result.greedy.mean,
        "evaluation/length": result.mean_length,
        "evaluation/truncated": result.truncated,
    }


def sampled(seed: int, world: World, num_prompts: int = 7) -> EvaluationResult:
    policy = tiny_policy(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=16)
    config = EvaluationConfig(num_prompts=num_prompts, num_samples=3)
    return evaluate(StaticCacheEngine(policy), FirstLetter("abcdefg"), SAMPLING, config, world=world, seed=seed)


class FirstLetter(Letters):
    """Half the alphabet is correct, so that a random policy has accuracies between 0 and 1; empty responses are wrong."""

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return float(bool(completion.text) and ord(completion.text[0]) % 2 == 0)


def test_the_noise_of_a_prompt_depends_on_the_seed_and_not_on_the_other_prompts() -> None:
    few, many, other_seed = sampled(0, World(), num_prompts=4), sampled(0, World()), sampled(1, World())
    assert 0 < many.accuracy.mean < 1, "the case must have correct and wrong samples"
    assert many.per_prompt[:4] == few.per_prompt
    assert many.samples[:4] == few.samples
    assert many.samples != other_seed.samples


def _sampled_on(world: World) -> EvaluationResult:
    return sampled(0, world)


def test_two_ranks_give_the_result_of_one() -> None:
    """Seven prompts: shards of three and four."""
    one = sampled(0, World())
    assert run_distributed(_sampled_on, world_size=2) == [one, one]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "evaluation.split is 'test': choose train or held_out"),
        ({"num_prompts": 0}, "evaluation.num_prompts is 0 and evaluation.num_samples 4: both need 1 or more"),
        ({"num_samples": 0}, "evaluation.num_samples 0: both need 1 or more"),
        ({"confidence": 1.0}, "evaluation.confidence is 1.0: it must lie between 0 and 1"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    build: Callable[..., EvaluationConfig] = EvaluationConfig
    with pytest.raises(UserError, match=message):
        build(**wrong)
