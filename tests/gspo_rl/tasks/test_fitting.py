"""Prompts that are too long are refused or left out, with their number."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import BlindTask, DemonstratingTask
from gspo_rl.tasks.addition import AdditionTask
from gspo_rl.tasks.fitting import PromptConfig, fitting_task
from gspo_rl.toy.arithmetic import ArithmeticTask
from triptych.errors import UserError
from triptych.telemetry.logging import setup_logging

LENGTHS = [4, 15, 4, 15, 14, 1]
"""Of the prompts, in characters, which are tokens."""


class Texts:
    """A task whose prompts have the given lengths."""

    def prompts(self, split: str) -> Sequence[Prompt]:
        return [Prompt("1" * length, "") for length in LENGTHS]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return 0.5


def encode(prompt: Prompt) -> Sequence[int]:
    return list(range(len(prompt.text)))


def kept(config: PromptConfig, max_tokens: int) -> list[int]:
    fitting = fitting_task(Texts(), config, encode, {"train": 16 - max_tokens})
    assert len(fitting.prompts("held_out")) == len(LENGTHS), "a split that is not used stays as it is"
    return [len(prompt.text) for prompt in fitting.prompts("train")]


def test_a_prompt_keeps_its_index_in_the_whole_split() -> None:
    fitting = fitting_task(Texts(), PromptConfig(overlong="drop"), encode, {"train": 14})
    assert [prompt.index for prompt in fitting.prompts("train")] == [0, 2, 4, 5]


def test_overlong_prompts_are_left_out_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0, world_size=1)
    assert kept(PromptConfig(overlong="drop"), 2) == [4, 4, 14, 1]
    assert "2 of 6 prompts of the train split have more than 14 tokens and are left out" in capsys.readouterr().out
    assert kept(PromptConfig(4, "drop"), 2) == [4, 4, 1]
    assert kept(PromptConfig(100, "drop"), 2) == [4, 4, 14, 1]
    capsys.readouterr()
    assert kept(PromptConfig(overlong="drop"), 1) == LENGTHS
    assert capsys.readouterr().out == ""


def test_overlong_prompts_are_refused_with_their_number() -> None:
    assert kept(PromptConfig(), 2) == LENGTHS, "the trainer refuses them"
    assert kept(PromptConfig(15), 1) == LENGTHS
    with pytest.raises(UserError, match=r"3 of 6 prompts of the train split have more than 13 tokens: .*prompts\.overlong=drop"):
        kept(PromptConfig(13), 1)
    with pytest.raises(UserError, match="6 of 6 prompts of the train split have more than 0 tokens: shorten them"):
        kept(PromptConfig(overlong="drop"), 16)


@pytest.mark.parametrize(("wrong", "message"), [((0,), "prompts.max_tokens is 0"), ((None, "cut"), "choose one of refuse, drop")])
def test_impossible_settings_are_refused(wrong: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptConfig(*wrong)


def test_rewards_are_those_of_the_task() -> None:
    fitting = fitting_task(Texts(), PromptConfig(overlong="drop"), encode, {"train": 2})
    assert not isinstance(fitting, BlindTask)
    cut = Completion((), torch.zeros(1, dtype=torch.long), torch.zeros(1), "9", False)
    assert fitting.reward(Prompt("", ""), cut) == 0.5
    assert not isinstance(fitting, DemonstratingTask)
    arithmetic = fitting_task(ArithmeticTask(), PromptConfig(overlong="drop"), encode, {"train": 22})
    assert isinstance(arithmetic, DemonstratingTask)
    assert arithmetic.demonstrate(arithmetic.prompts("train")[0], torch.Generator().manual_seed(0))
    blind = fitting_task(AdditionTask(highest=20), PromptConfig(overlong="drop"), encode, {"train": 100})
    assert isinstance(blind, BlindTask)
    assert (blind.reward(Prompt("", "9"), cut), blind.blind_reward(Prompt("", "9"), cut)) == (0, 1)
