"""Warnings of a training: each said once, with its likely cause."""

import pytest
import torch

from gspo_rl.diagnosis import PATIENCE, Diagnosis
from gspo_rl.metrics import MinibatchOutcome, SequenceTable
from triptych.telemetry.logging import setup_logging

HEALTHY = {"reward/zero_advantage_groups": 0.2, "reward/correct": 0.5, "length/truncated": 0.1, "ratio_clip_widths/minibatch_1": 2.0}


def outcomes(*advantages: float) -> list[MinibatchOutcome]:
    return [MinibatchOutcome(SequenceTable(("advantage",), torch.tensor([[value], [-value]])), 1.0) for value in advantages]


@pytest.fixture(autouse=True)
def _logging() -> None:
    setup_logging(0, world_size=1)


def warnings(
    capsys: pytest.CaptureFixture[str], steps: int = 20, advantages: tuple[float, ...] = (1.0, 1.0), **changes: float
) -> list[str]:
    diagnosis = Diagnosis(is_main=True)
    named = {key.replace("__", "/"): value for key, value in changes.items()}
    for step in range(1, steps + 1):
        diagnosis.observe(step, {**HEALTHY, **named}, outcomes(*advantages))
    return capsys.readouterr().out.splitlines()


def test_a_healthy_training_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert warnings(capsys) == []


@pytest.mark.parametrize(
    ("correct", "truncated", "cause"),
    [(0.0, 0.1, "no answer is right"), (0.0, 0.9, "most responses are cut"), (1.0, 0.0, "every answer is right"), (0.5, 0.1, "raise trainer.group_size")],
)  # fmt: skip
def test_steps_without_any_advantage_are_named_with_their_cause(
    capsys: pytest.CaptureFixture[str], correct: float, truncated: float, cause: str
) -> None:
    changes = {"reward__zero_advantage_groups": 1.0, "reward__correct": correct, "length__truncated": truncated}
    assert warnings(capsys, PATIENCE - 1, (0.0, 0.0), **changes) == []
    said = [line for line in warnings(capsys, 3 * PATIENCE, (0.0, 0.0), **changes) if "had one reward" in line]
    assert len(said) == 1
    assert said[0].startswith(
        f"step {PATIENCE}: in {PATIENCE} steps all samples of each prompt had one reward, so nothing is learned: {cause}"
    )


def test_truncated_responses_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert warnings(capsys, length__truncated=0.5) == []
    (said,) = warnings(capsys, length__truncated=0.6)
    assert said.startswith(f"step {PATIENCE}: 60 % of the responses are cut by sampling.max_tokens")


def test_a_sign_must_last(capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = Diagnosis(is_main=True)
    for step in range(1, 30):
        diagnosis.observe(step, {**HEALTHY, "length/truncated": 0.9 if step % PATIENCE else 0.1}, outcomes(1.0))
    assert capsys.readouterr().out == ""


def test_large_moves_are_named_after_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert warnings(capsys, PATIENCE, ratio_clip_widths__minibatch_1=300.0) == []
    (said,) = warnings(capsys, 4 * PATIENCE, ratio_clip_widths__minibatch_1=300.0)
    assert said.startswith(f"step {PATIENCE + 1}: the policy moves by 300 clip widths within one rollout batch")


def test_a_step_by_momentum_alone_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    (said,) = warnings(capsys, 3, (1.0, 0.0))
    assert said.startswith("step 1: mini-batch 2 has no advantage, and the momentum of AdamW still moves the weights")
    (said,) = warnings(capsys, 3, (0.0, 1.0))
    assert said.startswith("step 2: mini-batch 1 has no advantage")


def test_noise_above_the_limit_is_named_with_the_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = Diagnosis(is_main=True)
    diagnosis.observe_noise(1, {"noise/sampler_clip_widths": 0.29, "noise/batching_clip_widths": 0.1})
    assert capsys.readouterr().out == ""
    for _ in range(2):
        diagnosis.observe_noise(7, {"noise/sampler_clip_widths": 30.0, "noise/batching_clip_widths": 0.1})
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("step 7: with equal weights, the ratios of the sampler and the trainer differ by 30 clip widths")
    assert all(remedy in said for remedy in ("float32", "trainer.old_logprobs=recompute", "a wider clip range"))
    Diagnosis(is_main=False).observe_noise(7, {"noise/sampler_clip_widths": 30.0})
    recomputed = Diagnosis(is_main=True, uses_sampler=False)
    recomputed.observe_noise(7, {"noise/sampler_clip_widths": 30.0, "noise/batching_clip_widths": 0.1})
    assert capsys.readouterr().out == ""
