"""An unfinished rollout batch travels through a checkpoint as tensors, and any number of ranks can resume it."""

from dataclasses import fields
from pathlib import Path

import torch

from gspo_rl.data.batch import Batch
from gspo_rl.metrics import MinibatchOutcome, SequenceTable
from gspo_rl.progress import Rollout, TrainingProgress
from triptych.distributed import World
from triptych.testing import run_distributed

GROUP, PROMPTS, TOKENS = 3, 4, 7


def rollout(groups: list[int], tokens: int = TOKENS) -> Rollout:
    """Rows whose numbers are those of their group, so that a mixed-up row fails a comparison."""
    rows = torch.tensor([group for group in groups for _ in range(GROUP)])
    shape = (len(rows), tokens)
    batch = Batch(
        input_ids=rows[:, None].expand(shape).clone(),
        response_mask=torch.ones(shape, dtype=torch.bool),
        sampler_logprobs=rows[:, None].float().expand(shape).clone(),
        rewards=rows.float(),
        advantages=-rows.float(),
    )
    table = SequenceTable(("loss", "weight"), torch.arange(2.0 * PROMPTS * GROUP, dtype=torch.float64).view(-1, 2))
    return Rollout(groups, batch, {"reward/mean": 0.1}, 100, 60, batch.sampler_logprobs / 2, [MinibatchOutcome(table, 0.25)])


def test_a_rollout_survives_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    progress = TrainingProgress(World(), range(PROMPTS))
    progress.unfinished = rollout(list(range(PROMPTS)))
    progress.train_seconds, progress.num_tokens = 1.5, 42
    progress.save(tmp_path)
    restored = TrainingProgress(World(), range(PROMPTS))
    restored.load(tmp_path)
    assert (restored.train_seconds, restored.num_tokens, restored.before) == (1.5, 42, None)
    found, wanted = restored.unfinished, progress.unfinished
    assert found is not None
    for item in fields(Batch):
        assert torch.equal(getattr(found.batch, item.name), getattr(wanted.batch, item.name)), item.name
    assert wanted.old_logprobs is not None
    assert found.old_logprobs is not None
    assert torch.equal(found.old_logprobs, wanted.old_logprobs)
    assert (found.metrics, found.num_tokens, found.num_response_tokens) == (wanted.metrics, 100, 60)
    assert found.outcomes[0].grad_norm == 0.25
    assert found.outcomes[0].sequences.columns == ("loss", "weight")
    assert torch.equal(found.outcomes[0].sequences.values, wanted.outcomes[0].sequences.values)


def test_a_step_without_an_unfinished_rollout_restores_none(tmp_path: Path) -> None:
    TrainingProgress(World(), [0]).save(tmp_path)
    restored = TrainingProgress(World(), [0])
    restored.load(tmp_path)
    assert restored.unfinished is None


def _save(world: World, folder: Path) -> None:
    # Interleaved groups of different padded lengths, as two ranks have them.
    groups = [[0, 3], [1, 2]][world.rank]
    rollout(groups, tokens=TOKENS - world.rank).save(folder, world)


def test_a_rollout_saved_by_two_ranks_is_resumed_by_one(tmp_path: Path) -> None:
    run_distributed(_save, world_size=2, args=(tmp_path,))
    found = Rollout.load(tmp_path, [0, 1, 2, 3], torch.device("cpu"))
    expected = torch.tensor([0, 1, 2, 3]).repeat_interleave(GROUP)
    assert found.batch.input_ids.shape == (PROMPTS * GROUP, TOKENS)
    assert torch.equal(found.batch.rewards, expected.float())
    assert torch.equal(found.batch.input_ids[:, 0], expected)
    assert found.batch.response_mask.sum(dim=1).tolist() == [*[TOKENS] * 3, *[TOKENS - 1] * 6, *[TOKENS] * 3], "padding is not a response"
    part = Rollout.load(tmp_path, [3], torch.device("cpu"))
    assert part.batch.rewards.tolist() == [3.0] * GROUP
