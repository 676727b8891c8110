"""reasoning-gym: rewards of its own answers, disjoint splits, error rate of demonstrations."""

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks.reasoning_gym import ReasoningGymTask
from triptych.errors import UserError
from triptych.seeding import generator

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (one of its libraries needs a C compiler)")


def completion(text: str, *, finished: bool = True) -> Completion:
    return Completion((1,), torch.tensor([1]), torch.zeros(1), text, finished)


@pytest.mark.parametrize("family", ["chain_sum", "basic_arithmetic", "letter_counting", "spell_backward", "number_sorting"])
def test_the_library_grades_its_own_answers_as_right(family: str) -> None:
    task = ReasoningGymTask(family, num_prompts=50, num_held_out=20, wrong=0.0)
    for split in ("train", "held_out"):
        for prompt in task.prompts(split)[:10]:
            assert task.reward(prompt, completion(prompt.answer)) == 1.0
            assert task.reward(prompt, completion(f"<answer>{prompt.answer}</answer>")) == 1.0
            assert task.reward(prompt, completion("certainly not this")) < 1.0
            assert task.reward(prompt, completion(prompt.answer, finished=False)) == 0.0
            assert task.reward(prompt, completion(task.demonstrate(prompt, generator(0)))) == 1.0


def test_held_out_questions_never_appear_in_training() -> None:
    options = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}  # 10 * 10 * 2 questions
    task = ReasoningGymTask("chain_sum", options=options, num_prompts=300, num_held_out=30)
    assert not {prompt.text for prompt in task.prompts("train")} & {prompt.text for prompt in task.prompts("held_out")}


def test_demonstrations_are_wrong_at_the_given_rate() -> None:
    task = ReasoningGymTask("chain_sum", num_prompts=10, num_held_out=500, wrong=0.3)
    prompt = task.prompts("train")[0]
    right = sum(task.reward(prompt, completion(task.demonstrate(prompt, generator(seed)))) == 1.0 for seed in range(1000))
    assert 650 < right < 750  # 700 with a standard deviation of 15


def test_a_chain_is_worked_from_left_to_right() -> None:
    prompt = Prompt("", "-4", {"metadata": {"expression": "4 - 1 - 7"}})
    assert ReasoningGymTask("chain_sum", num_held_out=1, wrong=0.0).demonstrate(prompt, generator(0)) == "4-1=3 3-7=-4 <answer>-4</answer>"
    wrong = ReasoningGymTask("chain_sum", num_held_out=1, wrong=1.0)
    seen = {wrong.demonstrate(prompt, generator(seed)) for seed in range(50)}
    assert seen == {f"4-1={a} {a}-7={b} <answer>{b}</answer>" for a, b in ((2, -5), (4, -3), (3, -5), (3, -3))}


def test_a_family_that_does_not_exist_and_an_option_it_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="no family of reasoning-gym: choose one of .*chain_sum"):
        ReasoningGymTask("chain_summ")
    with pytest.raises(UserError, match="task.options.chain_sum"):
        ReasoningGymTask("chain_sum", options={"chain_sum": {"terms": 3}})
