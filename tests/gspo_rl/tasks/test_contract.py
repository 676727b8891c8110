"""The contract of tasks, tested on each of them."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import CORRECT, DemonstratingTask, Task
from gspo_rl.tasks.jsonl import JsonlTask
from triptych.seeding import generator


def arithmetic(_: Path) -> Task:
    from gspo_rl.toy.arithmetic import ArithmeticTask

    return ArithmeticTask()


def jsonl(folder: Path) -> Task:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"{first} + 1 =", "answer": str(first + 1)}) + "\n" for first in range(40)))
    return JsonlTask(path=str(path))


@pytest.fixture(
    params=[
        jsonl,
        pytest.param(arithmetic, marks=pytest.mark.skipif(find_spec("gspo_rl.toy") is None, reason="gspo_rl.toy is absent")),
    ]
)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    build: Callable[[Path], Task] = request.param
    return build(tmp_path)


def response(text: str) -> Completion:
    return Completion((), torch.tensor([1]), torch.zeros(1), text, finished=True)


def test_the_splits_are_disjoint_and_repeatable(task: Task) -> None:
    splits = [[prompt.text for prompt in list(task.prompts(split))[:200]] for split in ("train", "held_out")]
    assert all(splits)
    assert not set(splits[0]) & set(splits[1])
    assert splits[0] == [prompt.text for prompt in list(task.prompts("train"))[:200]]


def test_rewards_are_at_most_one_and_reach_it_for_the_answer(task: Task) -> None:
    for prompt in list(task.prompts("held_out"))[:8]:
        assert isinstance(prompt, Prompt)
        assert task.reward(prompt, response(f"\\boxed{{{prompt.answer}}}")) <= CORRECT
        assert task.reward(prompt, response("no idea")) < CORRECT
        if isinstance(task, DemonstratingTask):
            shown = [task.demonstrate(prompt, generator(seed, "demonstration")) for seed in range(20)]
            assert max(task.reward(prompt, response(text)) for text in shown) == CORRECT
