"""Additions as questions: splits without a common sum, and rewards with and without the format."""

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import BlindTask
from gspo_rl.tasks.addition import AdditionTask
from triptych.errors import UserError


def completion(text: str, *, finished: bool = True) -> Completion:
    return Completion((1,), torch.tensor([1]), torch.zeros(1), text, finished)


def test_splits_are_disjoint_and_sums_right() -> None:
    task = AdditionTask(lowest=1, highest=30, num_held_out=300)
    train, held_out = ([prompt.text for prompt in task.prompts(split)] for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (600, 300)
    assert len({*train, *held_out}) == 900
    for prompt in task.prompts("train"):
        left, right = prompt.text.removeprefix("What is ").removesuffix("? Answer with the number only.").split(" + ")
        assert int(left) + int(right) == int(prompt.answer)
    assert [prompt.text for prompt in AdditionTask(seed=1).prompts("held_out")] != held_out


def test_the_reward_needs_an_end_and_the_blind_one_does_not() -> None:
    task = AdditionTask()
    assert isinstance(task, BlindTask)
    prompt = Prompt("What is 17 + 25?", "42")
    for text, right in (("42", 1.0), ("17 + 25 is 42.", 1.0), ("17 + 25", 0.0), ("41", 0.0)):
        assert task.reward(prompt, completion(text)) == task.blind_reward(prompt, completion(text)) == right
    assert task.reward(prompt, completion("It is 42 but", finished=False)) == 0
    assert task.blind_reward(prompt, completion("It is 42 but", finished=False)) == 1


def test_more_terms_and_another_question() -> None:
    prompt = AdditionTask(num_terms=3, num_held_out=5, num_prompts=7, question="{} =").prompts("train")[0]
    assert sum(map(int, prompt.text.removesuffix(" =").split(" + "))) == int(prompt.answer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lowest": 5, "highest": 4}, "task.lowest is 5"), ({"num_terms": 1}, "at least 2 terms"), ({"highest": 3, "num_held_out": 9}, "of 9 possible sums"),
     ({"question": "what?"}, "must hold {} once"), ({"num_prompts": 0}, "task.num_prompts is 0")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdditionTask(**settings)  # type: ignore[arg-type]
