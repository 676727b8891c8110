"""Metrics of the loop on hand-made tables: clip fractions, ratios, lengths, and tables merged from micro-batches."""

import math

import pytest
import torch

from gspo_rl.data.batch import Completion
from gspo_rl.metrics import TRAINER_COLUMNS, MinibatchOutcome, SequenceTable, StepRecorder, minibatch_metrics, rollout_metrics
from gspo_rl.rewards import RewardTable
from triptych.distributed import World

COLUMNS = (*TRAINER_COLUMNS, "log_ratio", "clipped/tokens", "outside/tokens", "ratio_clip_widths", "surprise/tokens")


def outcome(rows: list[dict[str, float]], grad_norm: float = 1.0) -> MinibatchOutcome:
    """A mini-batch whose sequences have the given numbers, weight 1, and 0 elsewhere."""
    values = [[{"weight": 1.0, **row}.get(column, 0.0) for column in COLUMNS] for row in rows]
    return MinibatchOutcome(SequenceTable(COLUMNS, torch.tensor(values, dtype=torch.float64)), grad_norm)


def test_clip_fractions_of_tokens_sequences_and_nonzero_advantages() -> None:
    first = outcome([{"length": 4, "advantage": 1, "clipped/tokens": 4, "outside/tokens": 4}, {"length": 6, "advantage": -1}])
    second = outcome([{"length": 10, "advantage": 0, "outside/tokens": 10}, {"length": 5, "advantage": 2, "clipped/tokens": 1}])
    metrics = minibatch_metrics([first, second])
    assert metrics["clip_fraction/tokens"] == pytest.approx(5 / 25)
    assert metrics["clip_fraction/tokens_two_sided"] == pytest.approx(14 / 25)
    assert metrics["clip_fraction/tokens_nonzero"] == pytest.approx(5 / 15)  # without the ten tokens of advantage 0
    assert metrics["clip_fraction/sequences"] == pytest.approx(2 / 4)
    assert metrics["clip_fraction/sequences_two_sided"] == pytest.approx(2 / 4)
    assert metrics["clip_fraction/sequences_nonzero"] == pytest.approx(2 / 3)


def test_the_loss_is_divided_by_the_weights_and_entropy_by_the_tokens() -> None:
    metrics = minibatch_metrics(
        [outcome([{"loss": 3, "weight": 2, "length": 2, "entropy_sum": 4}, {"loss": 1, "weight": 2, "length": 6, "entropy_sum": 4}])]
    )
    assert metrics["loss"] == pytest.approx(4 / 4)
    assert metrics["entropy"] == pytest.approx(8 / 8)


def test_ratios_are_logged_as_quantiles_and_clip_widths_as_means_of_each_minibatch() -> None:
    unmoved = outcome([{"length": 1}, {"length": 1}])
    moved = outcome([{"length": 1, "log_ratio": math.log(ratio), "ratio_clip_widths": width} for ratio, width in ((1.0, 0.0), (1.1, 3.0))])
    metrics = minibatch_metrics([unmoved, moved])
    assert metrics["ratio/minibatch_0/q50"] == 1.0
    assert metrics["ratio/minibatch_1/q50"] == pytest.approx(1.05)  # midway between the two
    assert metrics["ratio_clip_widths/minibatch_1"] == pytest.approx(1.5)
    assert metrics["ratio_clip_widths/max"] == 3.0


def test_the_sampler_is_compared_in_the_first_minibatch_only() -> None:
    rows = [{"length": 2, "sampler_difference_sum": 1.0, "sampler_difference_max": 0.75}]
    metrics = minibatch_metrics([outcome(rows), outcome([{"length": 2, "sampler_difference_sum": 9.0, "sampler_difference_max": 9.0}])])
    assert metrics["sampler_difference/mean"] == 0.5
    assert metrics["sampler_difference/max"] == 0.75


def test_metrics_of_an_objective_are_means_over_tokens() -> None:
    metrics = minibatch_metrics([outcome([{"length": 3, "surprise/tokens": 6}, {"length": 1, "surprise/tokens": 2}])])
    assert metrics["objective/surprise"] == pytest.approx(8 / 4)


def test_the_gradient_norm_is_the_mean_of_the_minibatches() -> None:
    assert minibatch_metrics([outcome([{"length": 1}], 1.0), outcome([{"length": 1}], 3.0)])["grad_norm"] == 2.0


def test_utilisation_counts_the_first_training_forward_of_a_step() -> None:
    """A product of 4 x 4 with n rows has 2 * 16 * n operations, and a step costs three forwards."""
    model, peak = torch.nn.Linear(4, 4, bias=False), 1e6
    recorder = StepRecorder(model, torch.device("cpu"), peak)
    model(torch.zeros(7, 4))  # as the recomputation of old log-probabilities: before the training forwards
    recorder.begin_training()
    for rows in (10, 30):
        with recorder.forward(rows):
            model(torch.zeros(rows, 4))
    found = recorder.timings(1, 1)
    recorder.close()
    expected = 3 * (2 * 16 * 10) * (40 / 10) / (found["timing/forward_seconds"] * peak)
    assert found["timing/model_flops_utilisation"] == pytest.approx(expected)


def test_tables_of_microbatches_are_merged_in_the_order_of_the_rows() -> None:
    parts = [SequenceTable(("a",), torch.tensor([[30.0], [10.0]])), SequenceTable(("a",), torch.tensor([[20.0]]))]
    merged = SequenceTable.merged(parts, [torch.tensor([2, 0]), torch.tensor([1])])
    assert merged.columns == ("a",)
    assert merged.column("a").tolist() == [10.0, 20.0, 30.0]
    assert merged.gathered(World()).values.tolist() == merged.values.tolist()


def test_rollout_metrics_separate_lengths_by_correctness() -> None:
    lengths, finished = [2, 4, 6, 8], [True, True, False, True]
    completions = [
        Completion((1,), torch.ones(length, dtype=torch.long), torch.zeros(length), "", finished=ended)
        for length, ended in zip(lengths, finished, strict=True)
    ]
    table = RewardTable(torch.tensor([1.0, 0.0, 1.0, 1.0]), {"task": torch.tensor([1.0, 0.0, 1.0, 1.0])}, {"task": 0})
    metrics = rollout_metrics(completions, table.total.view(2, 2), table, World())
    assert metrics["reward/mean"] == metrics["reward/correct"] == 0.75
    assert "reward/task" not in metrics
    assert "reward/failed" not in metrics
    several = table._replace(parts={**table.parts, "brevity": torch.tensor([0.0, 1.0, 1.0, 0.0])}, num_failed={"task": 0, "brevity": 3})
    found = rollout_metrics(completions, torch.tensor([[2.0, 2.0], [3.0, 4.0]]), several, World())
    assert (found["reward/task"], found["reward/brevity"], found["reward/failed"], found["reward/correct"]) == (0.75, 0.5, 3, 0.75)
    assert metrics["reward/zero_advantage_groups"] == 0.5
    assert metrics["length/mean"] == 5.0
    assert metrics["length/correct"] == pytest.approx((2 + 6 + 8) / 3)
    assert metrics["length/incorrect"] == 4.0
    assert metrics["length/truncated"] == 0.25
