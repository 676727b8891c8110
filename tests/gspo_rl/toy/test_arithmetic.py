"""Sums: splits, demonstrations and rewards."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import DemonstratingTask
from gspo_rl.toy.arithmetic import ArithmeticTask
from triptych.errors import UserError
from triptych.seeding import generator

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (one of its libraries needs a C compiler)")


def completion(text: str, *, finished: bool = True) -> Completion:
    return Completion((1,), torch.tensor([1]), torch.zeros(1), text, finished)


def test_the_task_has_demonstrations() -> None:
    assert isinstance(ArithmeticTask(), DemonstratingTask)


def test_sums_are_sums_and_the_splits_share_no_pair() -> None:
    task = ArithmeticTask(num_prompts=3000, num_held_out=400)
    pairs: dict[str, set[tuple[int, ...]]] = {}
    for split in ("train", "held_out"):
        pairs[split] = set()
        for prompt in task.prompts(split):
            numbers = [int(text) for text in prompt.text.removesuffix("=").split("+")]
            assert sum(numbers) == int(prompt.answer)
            assert all(100 <= number <= 9999 for number in numbers)
            pairs[split].add(tuple(sorted(numbers)))
    assert not pairs["train"] & pairs["held_out"]
    assert len(pairs["train"]) > 2900


def test_a_prompt_depends_on_seed_and_index_alone() -> None:
    task = ArithmeticTask()
    backwards = [task.prompts("train")[index] for index in reversed(range(5))]
    assert backwards[::-1] == task.prompts("train")[:5]
    assert task.prompts("train")[0] == ArithmeticTask(num_prompts=7).prompts("train")[0]
    assert task.prompts("train")[0] != ArithmeticTask(seed=1).prompts("train")[0]


@given(index=st.integers(0, 999), seed=st.integers(0, 10**6))
def test_a_demonstration_without_errors_has_correct_columns_and_reward_1(index: int, seed: int) -> None:
    task = ArithmeticTask(careless=0.0, slip=0.0)
    prompt = task.prompts("held_out")[index]
    text = task.demonstrate(prompt, generator(seed))
    assert task.reward(prompt, completion(text)) == 1.0
    for column in text.partition(" #")[0].split(" "):
        left, right = column.split("=")
        assert sum(int(digit) for digit in left.split("+")) == int(right)


def test_a_careless_demonstration_forgets_its_carries() -> None:
    task = ArithmeticTask(careless=1.0, slip=0.0)
    # 9 + 8 = 17, 4 + 7 + 0 = 11, 0 + 1 + 0 = 1: without carries the digits are 7, 1, 1.
    prompt = Prompt("49+178=", "227")
    assert task.demonstrate(prompt, generator(0)) == "9+8+0=17 4+7+0=11 0+1+0=01 #117"
    assert task.reward(prompt, completion("9+8+0=17 4+7+0=11 0+1+0=01 #117")) == 0.0


def test_the_fraction_of_right_demonstrations_follows_from_the_error_rates() -> None:
    task = ArithmeticTask()
    prompts = task.prompts("train")[:1000]
    right = sum(task.reward(prompt, completion(task.demonstrate(prompt, generator(index)))) for index, prompt in enumerate(prompts))
    assert 450 < right < 650  # (1 - careless) * (1 - slip)^4, and the sums without a carry


@pytest.mark.parametrize(
    ("text", "finished", "reward"),
    [("#227", True, 1.0), ("no #1 #227", True, 1.0), ("#227", False, 0.0), ("227", True, 0.0), ("#0227", True, 0.0), ("#227 ", True, 0.0), ("#", True, 0.0)],
)  # fmt: skip
def test_only_a_finished_and_exact_sum_counts(text: str, finished: bool, reward: float) -> None:
    assert ArithmeticTask().reward(Prompt("49+178=", "227"), completion(text, finished=finished)) == reward


@pytest.mark.parametrize("wrong", [{"num_prompts": 0}, {"num_held_out": 0}, {"min_digits": 4, "max_digits": 3}, {"careless": 1.5}])
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"task.{next(iter(wrong))}"):
        ArithmeticTask(**wrong)
