"""Rewards: weighted sums in which a failure costs its own completion only."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.rewards import RewardConfig, RewardModel, Rewards, build_rewards
from triptych.errors import UserError
from triptych.telemetry.logging import setup_logging

PROMPTS = [Prompt(f"{n}?", str(n)) for n in range(4)]


class Task:
    def prompts(self, split: str) -> Sequence[Prompt]:
        return PROMPTS

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        if completion.text == "raise":
            raise ZeroDivisionError("of this completion")
        return math.nan if completion.text == "nan" else float(completion.text == prompt.answer)


def completions(*texts: str) -> list[Completion]:
    return [Completion((1,), torch.tensor([1]), torch.zeros(1), text, True) for text in texts]


def test_the_sum_is_weighted_and_every_part_is_returned() -> None:
    def length(prompts: Sequence[Prompt], items: Sequence[Completion]) -> list[float]:
        return [float(len(item.text)) for item in items]

    table = Rewards(Task(), {"length": length}, {"length": -0.5})(PROMPTS, completions("0", "no", "2", "three"))
    assert table.parts["task"].tolist() == [1, 0, 1, 0]
    assert table.parts["length"].tolist() == [1, 2, 1, 5]
    assert table.total.tolist() == [0.5, -1.0, 0.5, -2.5]
    assert table.num_failed == {"task": 0, "length": 0}


def test_a_reward_that_raises_or_is_no_number_is_counted_and_zero(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0, world_size=1)
    rewards = Rewards(Task())
    for _ in range(2):
        table = rewards(PROMPTS, completions("0", "raise", "2", "nan"))
        assert table.total.tolist() == [1, 0, 1, 0]
        assert table.num_failed == {"task": 2}
    said = capsys.readouterr().out
    assert said.count("reward 'task' failed for 2 of 4 completions, which get 0: ZeroDivisionError: of this completion") == 1


def test_a_function_that_returns_too_few_numbers_fails_for_all() -> None:
    table = Rewards(Task(), {"short": lambda prompts, items: [1.0]})(PROMPTS, completions("0", "1", "2", "3"))
    assert table.num_failed["short"] == 4
    assert table.parts["short"].tolist() == [0, 0, 0, 0]
    assert table.total.tolist() == [1, 1, 1, 1]


def test_rewards_of_a_config() -> None:
    configs = {"task": RewardConfig(weight=0.0), "one": RewardConfig(function="node", weight=2.0)}
    rewards = build_rewards(Task(), configs, lambda node: lambda prompts, items: [1.0] * len(items))
    assert rewards(PROMPTS, completions("0", "x", "x", "x")).total.tolist() == [2, 2, 2, 2]
    with pytest.raises(UserError, match=r"rewards\.two has no function"):
        build_rewards(Task(), {"two": RewardConfig()}, lambda node: node)
    with pytest.raises(UserError, match="all weights of rewards are 0"):
        build_rewards(Task(), {"task": RewardConfig(weight=0.0)}, lambda node: node)
    with pytest.raises(UserError, match="weight of a reward is nan"):
        RewardConfig(weight=math.nan)


@pytest.fixture
def classifier(tmp_path: Path) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    def make(num_labels: int) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / str(num_labels)
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"0123456789?x"]))
        config = BertConfig(
            vocab_size=17, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=num_labels
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(folder)
        return folder

    return make


def test_a_reward_model_scores_each_completion_by_itself(classifier: Any) -> None:
    model = RewardModel(str(classifier(1)), batch_size=3)
    items = completions("0", "1 2 3 4", "x", "3")
    together = model(PROMPTS, items)
    alone = [model([prompt], [item])[0] for prompt, item in zip(PROMPTS, items, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 4
    json.dumps(together)


def test_a_reward_model_that_cannot_be_used_is_refused(classifier: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 outputs"):
        RewardModel(str(classifier(2)))
    with pytest.raises(UserError, match="cannot be loaded"):
        RewardModel(str(tmp_path / "none"))
