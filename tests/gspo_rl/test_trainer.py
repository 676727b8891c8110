"""The loop: one denominator, exact ratios, the same numbers from any number of ranks, and refusals."""

import json
import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gspo_rl.data.batch import Batch, collate
from gspo_rl.evaluation import EvaluationConfig, evaluate
from gspo_rl.metrics import TRAINER_COLUMNS, SequenceTable, StepRecorder
from gspo_rl.models.policy import Policy
from gspo_rl.numerics.advantages import group_relative_advantages
from gspo_rl.numerics.objectives import Objective, ObjectiveOutput, grpo, gspo, gspo_token
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import tiny_policy
from gspo_rl.trainer import GSPOTrainer, TrainerConfig
from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.run.signals import Interrupted
from triptych.strategy.ddp import DDPStrategy
from triptych.testing import run_distributed

GSPO = partial(gspo, clip_low=3e-4, clip_high=4e-4)
OBJECTIVES: dict[str, Objective] = {"gspo": GSPO, "gspo_token": partial(gspo_token, clip_low=3e-4, clip_high=4e-4), "grpo": partial(grpo, clip_low=0.2, clip_high=0.27)}  # fmt: skip
SAMPLING = SamplingConfig(max_tokens=10)


class CountsDigits(ArithmeticTask):
    """Sums whose reward is the fraction of digits in the response: a random policy earns some of it, so gradients are not 0."""

    def reward(self, prompt: Any, completion: Any) -> float:
        return sum(character.isdigit() for character in completion.text) / 10


def small(seed: int = 7) -> Policy:
    return tiny_policy(hidden_size=32, num_layers=2, num_heads=4, num_key_value_heads=2, intermediate_size=48, max_positions=64, seed=seed)


def build(
    policy: Policy,
    world: World,
    objective: Objective = GSPO,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    engine: Any = StaticCacheEngine,
    **changes: Any,
) -> GSPOTrainer:
    config = {"max_steps": 2, "prompts_per_step": 4, "group_size": 4, "minibatches": 2, **changes}
    return GSPOTrainer(
        policy, engine(policy), CountsDigits(), objective, DDPStrategy(world, max_grad_norm=1.0), TrainerConfig(**config),
        sampling=SAMPLING, optimizer=OptimizerConfig(learning_rate=learning_rate, weight_decay=weight_decay),
        evaluation=EvaluationConfig(num_prompts=8, num_samples=2),
    )  # fmt: skip


def rollout(policy: Policy, rows: int = 12) -> Batch:
    task = CountsDigits()
    prompts = task.prompts("train")[: rows // 4]
    completions = StaticCacheEngine(policy).generate(prompts, 4, SAMPLING, seeds=list(range(rows)))
    rewards = torch.tensor([task.reward(prompts[row // 4], item) for row, item in enumerate(completions)]).view(-1, 4)
    return collate(completions, rewards.flatten(), group_relative_advantages(rewards).flatten(), pad_id=policy.pad_id)


def gradient(objective: Objective, batch: Batch, microbatch_tokens: int, old: Tensor | None = None) -> tuple[Tensor, Tensor]:
    policy = small()
    trainer = build(policy, World(), objective, microbatch_tokens=microbatch_tokens)
    strategy = DDPStrategy(World(), max_grad_norm=1.0)
    policy.scorer = strategy.prepare(policy.scorer, lambda model: build_adamw(model, OptimizerConfig()))
    trainer._strategy = strategy
    recorder = StepRecorder(policy.scorer, torch.device("cpu"), None)
    numbers = trainer.accumulate_gradient(batch, old, World(), recorder).values
    return torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters() if parameter.grad is not None]), numbers


def moved(batch: Batch) -> Tensor:
    """Old log-probabilities a little off the policy's, so that some sequences are clipped and others are not."""
    noise = torch.randn(batch.sampler_logprobs.shape, generator=torch.Generator().manual_seed(5))
    return torch.where(batch.response_mask, batch.sampler_logprobs + 1e-3 * noise, 0.0)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(microbatch_tokens=st.integers(1, 400), order=st.permutations(range(12)), padding=st.integers(0, 9))
def test_the_gradient_does_not_depend_on_microbatches_order_or_padding(
    name: str, microbatch_tokens: int, order: list[int], padding: int
) -> None:
    batch = rollout(small())
    whole, numbers = gradient(OBJECTIVES[name], batch, 10**6, moved(batch))
    changed = batch.select(order)
    pad = partial(torch.nn.functional.pad, pad=(0, padding))
    changed = replace(changed, input_ids=pad(changed.input_ids), response_mask=pad(changed.response_mask), sampler_logprobs=pad(changed.sampler_logprobs))  # fmt: skip
    parts, other_numbers = gradient(OBJECTIVES[name], changed, microbatch_tokens, pad(moved(batch)[order]))
    assert whole.norm() > 1e-2, "the case must have a gradient to compare"
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    # `ratio_clip_widths` magnifies a rounding of the log ratio by 1 over the clip width, 3e-4.
    torch.testing.assert_close(other_numbers, numbers[order], rtol=1e-4, atol=2e-6 / 3e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_the_mean_over_single_sequences(name: str) -> None:
    """Reference: every sequence alone through the plain model, losses averaged in float64."""
    batch = rollout(small())
    old = moved(batch)
    accumulated, _ = gradient(OBJECTIVES[name], batch, 150, old)
    policy = small()
    losses = []
    for row in range(len(batch)):
        length = int(batch.response_mask[row].nonzero().max()) + 1
        ids = batch.input_ids[row : row + 1, :length]
        logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        part = slice(row, row + 1)
        mask = batch.response_mask[part, 1:length]
        losses.append(OBJECTIVES[name](logprobs, old[part, 1:length], batch.advantages[part], mask).losses.double())
    torch.cat(losses).mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters() if parameter.grad is not None])
    # Twelve float32 backward passes summed in another order.
    assert float((accumulated - expected).norm() / expected.norm()) < 1e-5


def run_config(root: Path, name: str = "a", **changes: Any) -> RunConfig:
    return RunConfig(name=name, output_root=str(root), device="cpu", checkpoint=CheckpointConfig(every_steps=1), **changes)


def fit(root: Path, name: str = "a", *, config: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Any]]:
    policy = small()
    with Run.open(run_config(root, name, **(config or {}))) as run:
        build(policy, run.world, **changes).fit(run)
    return [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_two_steps_logs_ratios_clip_fractions_and_rewards(tmp_path: Path) -> None:
    before, first, second = fit(tmp_path)
    assert set(before) == {"step", "evaluation/accuracy", "evaluation/accuracy_greedy", "evaluation/length", "evaluation/truncated"}
    for row in (first, second):
        assert all(row[f"ratio/minibatch_0/q{level}"] == 1.0 for level in ("05", "50", "95")), "the first mini-batch has ratio exactly 1"
        assert row["ratio_clip_widths/minibatch_0"] == 0.0
        assert row["ratio_clip_widths/minibatch_1"] > 0.0
        assert 0 <= row["clip_fraction/sequences"] <= row["clip_fraction/sequences_two_sided"] <= 1
        assert row["sampler_difference/max"] < 1e-4
        assert row["reward/std"] > 0
    assert second["learning_rate"] == 1e-3


def test_recomputed_old_logprobs_are_the_samplers_up_to_rounding(tmp_path: Path) -> None:
    sampler, recomputed = fit(tmp_path, "a", old_logprobs="engine"), fit(tmp_path, "b", old_logprobs="recompute")
    for found, expected in zip(recomputed, sampler, strict=True):
        for key in ("reward/mean", "entropy", "loss", "grad_norm", "ratio/minibatch_1/q50"):
            if key in expected:
                assert found[key] == pytest.approx(expected[key], abs=1e-4), key


def test_rollouts_in_bfloat16_follow_the_weights_of_a_float32_trainer(tmp_path: Path) -> None:
    low = partial(StaticCacheEngine, dtype="bfloat16")
    rows = fit(tmp_path, noise_every=1, max_steps=6, engine=low, old_logprobs="recompute", learning_rate=3e-3)
    exact = fit(tmp_path, "b", noise_every=1, max_steps=6, old_logprobs="recompute", learning_rate=3e-3)
    noise = [row["noise/sampler_clip_widths"] for row in rows if "noise/sampler_clip_widths" in row]
    reference = [row["noise/sampler_clip_widths"] for row in exact if "noise/sampler_clip_widths" in row]
    assert len(noise) == 6
    # Rounding alone, in every step: weights that stay behind would differ by the moves of the policy, which add up.
    assert max(reference) < 0.1 < min(noise)
    assert max(noise) < 5 * min(noise)
    moves = [row["ratio_clip_widths/minibatch_1"] for row in rows if "ratio_clip_widths/minibatch_1" in row]
    assert max(moves) > 2 * max(noise), "the case does not move"


def test_both_engines_train_alike(tmp_path: Path) -> None:
    static, plain = fit(tmp_path, "a"), fit(tmp_path, "b", engine=TransformersEngine)
    for found, expected in zip(static, plain, strict=True):
        assert [found.get(key) for key in ("reward/mean", "length/mean")] == pytest.approx(
            [expected.get(key) for key in ("reward/mean", "length/mean")]
        )


def test_a_resumed_run_writes_the_same_bytes(tmp_path: Path) -> None:
    fit(tmp_path, "whole", max_steps=3)
    fit(tmp_path, "halves", max_steps=1)
    # The shorter run ended with an evaluation of its own; a run that was merely killed has none.
    fit(tmp_path, "halves", max_steps=3, config={"resume_step": 0})
    assert (tmp_path / "halves" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_an_engine_with_a_copy_of_the_policy_samples_from_the_restored_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {"engine": partial(StaticCacheEngine, dtype="bfloat16"), "old_logprobs": "recompute"}
    whole = fit(tmp_path, "whole", max_steps=3, **options)
    fit(tmp_path, "halves", max_steps=1, **options)
    assert fit(tmp_path, "halves", max_steps=3, **options)[-2:] == whole[-2:]


@pytest.mark.parametrize("old_logprobs", ["recompute", "engine"])
@pytest.mark.parametrize(("calls", "unfinished"), [(1, True), (2, False), (3, True)])
def test_a_run_resumed_inside_a_rollout_batch_writes_the_same_bytes(
    tmp_path: Path, calls: int, unfinished: bool, old_logprobs: str
) -> None:
    """Two mini-batches a step: after an odd number of them a rollout batch is half used."""
    fit(tmp_path, "whole", max_steps=2, old_logprobs=old_logprobs)
    counted = 0

    def interrupting(*tensors: Tensor, behavior_logprobs: Tensor) -> ObjectiveOutput:
        nonlocal counted
        counted += tensors[0].requires_grad  # the trainer computes weights without a gradient
        if counted == calls and tensors[0].requires_grad:
            os.kill(os.getpid(), signal.SIGTERM)
        return OBJECTIVES["gspo"](*tensors)

    with pytest.raises(Interrupted, match=f"SIGTERM after step {calls // 2}"):
        fit(tmp_path, "halves", max_steps=2, old_logprobs=old_logprobs, objective=interrupting)
    state = json.loads((tmp_path / "halves" / "checkpoints" / f"step_{calls // 2:08d}" / "trainer" / "trainer.json").read_text())
    assert state["is_unfinished"] == unfinished
    fit(tmp_path, "halves", max_steps=2, old_logprobs=old_logprobs)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "halves" / "metrics.jsonl").read_bytes()


def test_the_loop_improves_its_reward(tmp_path: Path) -> None:
    rows = fit(tmp_path, max_steps=25, learning_rate=3e-3)
    assert rows[-1]["reward/mean"] > rows[1]["reward/mean"] + 0.1


def _fit_on(world: World, root: Path) -> list[dict[str, Any]]:
    # The process group exists already, so the run's own World must join it: torchrun's variables give rank and size.
    import os

    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.rank))
    return fit(root, "two", max_steps=3) if world.is_main else _fit_quietly(root)


def _fit_quietly(root: Path) -> list[dict[str, Any]]:
    policy = small()
    with Run.open(run_config(root, "two")) as run:
        build(policy, run.world, max_steps=3).fit(run)
    return []


def test_two_ranks_give_the_curve_of_one(tmp_path: Path) -> None:
    one = fit(tmp_path, "one", max_steps=3)
    two = run_distributed(_fit_on, world_size=2, args=(tmp_path,))[0]
    assert len(one) == len(two)
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            # Gradients are summed in another order; three steps of AdamW at 1e-3 carry that into the weights.
            same = found[key] is None if value is None else found[key] == pytest.approx(value, rel=1e-3, abs=1e-5)
            assert same, (expected["step"], key, value, found[key])
        assert found.get("reward/mean") == pytest.approx(expected.get("reward/mean"), abs=1e-5)


@pytest.mark.faults
def test_a_gradient_that_is_not_finite_is_skipped_and_the_run_continues(tmp_path: Path) -> None:
    """Two mini-batches a step: the second of step 1 has an infinite loss, so that step 1 has no checkpoint of its own."""
    calls = 0

    def spoilt(*tensors: Tensor, behavior_logprobs: Tensor) -> ObjectiveOutput:
        nonlocal calls
        calls += tensors[0].requires_grad  # the trainer computes weights without a gradient
        output = OBJECTIVES["gspo"](*tensors)
        return output._replace(losses=output.losses * float("inf")) if calls == 2 and tensors[0].requires_grad else output

    rows = fit(tmp_path, max_steps=3, objective=spoilt)
    assert [row.get("skipped_steps") for row in rows] == [None, 1, 0, 0]
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == ["step_00000002", "step_00000003"]
    assert all(math.isfinite(row["evaluation/accuracy"]) for row in (rows[0], rows[-1]))


@pytest.mark.faults
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"3 optimizer steps in a row at step 2, mini-batch 2 of 2: training has stopped and the checkpoint of step 0 is intact",
    ) as caught:
        fit(tmp_path, learning_rate=1e30)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step_00000000"]


@pytest.mark.faults
def test_weights_that_the_last_update_broke_never_reach_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a weight is not finite at step 1"):
        # The decay alone takes a weight of 0.2 to 0.2 * 1e36 * 1e4, above the largest float32, 3.4e38.
        fit(tmp_path, learning_rate=1e36, weight_decay=1e4, minibatches=1)
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step_00000000"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group_size": 1}, "trainer.group_size is 1"),
        ({"prompts_per_step": 6, "minibatches": 4}, "trainer.prompts_per_step is 6, which 4 mini-batches cannot divide"),
        ({"old_logprobs": "guess"}, "trainer.old_logprobs is 'guess'"),
        ({"max_steps": 0}, "trainer.max_steps is 0"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainerConfig(**wrong)


class LowPrecisionEngine(StaticCacheEngine):
    """An engine that reports low precision to the trainer."""

    is_exact = False


def test_precision_that_would_count_as_a_policy_change_is_refused() -> None:
    with pytest.raises(UserError, match="use trainer.old_logprobs=recompute"):
        build(small(), World(), engine=LowPrecisionEngine)
    build(small(), World(), engine=LowPrecisionEngine, old_logprobs="recompute")
    policy = small()
    policy.model.to(torch.bfloat16)
    with pytest.raises(UserError, match="train with policy.dtype=float32"):
        build(policy, World(), old_logprobs="recompute")


def test_an_evaluation_does_not_depend_on_the_batch_size() -> None:
    policy = small()
    results = [
        evaluate(StaticCacheEngine(policy, max_batch=size), CountsDigits(), SAMPLING, EvaluationConfig(num_prompts=10, num_samples=4), world=World(), seed=3)
        for size in (512, 7)
    ]  # fmt: skip
    assert results[0] == results[1]
    assert set(results[0].pass_at) == {1, 2, 4}


def test_the_columns_of_the_sequence_table_are_distinct() -> None:
    assert len(set(TRAINER_COLUMNS)) == len(TRAINER_COLUMNS)


def by_tokens(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, behavior_logprobs: Tensor) -> ObjectiveOutput:
    """An objective that averages over tokens and has metrics of its own."""
    losses = torch.where(mask, -(logprobs - old).exp() * advantages[:, None], 0.0).sum(1)
    surprisal = torch.where(mask, -behavior_logprobs, 0.0)
    return ObjectiveOutput(losses, mask.sum(1).float(), {"surprisal": surprisal, "rows": torch.ones(len(mask))})


def test_losses_are_divided_by_the_sum_of_weights_whatever_the_microbatches() -> None:
    batch = rollout(small())
    whole, _ = gradient(by_tokens, batch, 10**6, moved(batch))
    parts, _ = gradient(by_tokens, batch, 40, moved(batch))
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    sequences, _ = gradient(
        lambda *inputs, **options: by_tokens(*inputs, **options)._replace(weights=torch.ones(len(inputs[0]))), batch, 10**6, moved(batch)
    )
    factor = float(batch.response_mask.sum()) / len(batch)
    torch.testing.assert_close(sequences, whole * factor, rtol=1e-4, atol=1e-6)


def test_metrics_of_an_objective_are_logged_under_its_own_names(tmp_path: Path) -> None:
    row = fit(tmp_path, objective=by_tokens)[1]
    assert row["objective/rows"] == 1.0
    # In the first mini-batch the behaviour policy is the policy: its surprisal is an estimate of the entropy.
    assert row["objective/surprisal"] == pytest.approx(row["entropy"], rel=0.3)
    assert "clip_fraction/tokens" not in row


def test_the_table_holds_columns_by_name() -> None:
    table = SequenceTable(("a", "b"), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert table.column("b").tolist() == [2.0, 4.0]
