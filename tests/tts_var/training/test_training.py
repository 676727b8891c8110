"""Training stages of the small world: the loss of a batch does not depend on its split over ranks."""

import pytest
import torch

from triptych.distributed import World
from triptych.testing import run_distributed
from triptych.training.loop import Stage
from tts_var.models.autoencoder import binary_tokenizer
from tts_var.models.infinity import infinity_transformer
from tts_var.numerics.scales import square_scales
from tts_var.toy.clip import SmallClip
from tts_var.toy.dataset import SmallWorld
from tts_var.toy.text import WordEncoder
from tts_var.training.reward_stage import RewardLossConfig, RewardStage, with_corrupted_regions
from tts_var.training.tokenizer_stage import TokenizerLossConfig, TokenizerStage
from tts_var.training.transformer_stage import TextToBits, TransformerLossConfig, TransformerStage

SCALES = square_scales([1, 2, 4, 8], patch=2)
DATA = SmallWorld(8)


def tokenizer_stage() -> Stage:
    torch.manual_seed(0)
    tokenizer = binary_tokenizer(latent_channels=8, base_channels=4, multipliers=(1, 2, 2), blocks_per_level=1, norm_groups=2)
    return TokenizerStage(tokenizer, DATA, SCALES, TokenizerLossConfig(plain_steps=10), seed=0)


def transformer_stage() -> Stage:
    torch.manual_seed(0)
    tokenizer = binary_tokenizer(latent_channels=8, base_channels=4, multipliers=(1, 2, 2), blocks_per_level=1, norm_groups=2)
    sizes = {"depth": 1, "width": 64, "num_heads": 2, "text_width": 128, "unconditional_tokens": 16}
    transformer, encoder = infinity_transformer(SCALES, latent_channels=8, **sizes), WordEncoder(128, num_layers=2)
    transformer.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        transformer.head.weight.add_(0.1)
    loss = TransformerLossConfig(flip_strength=0.3, text_dropout=0.5, weighting="per_scale")
    return TransformerStage(TextToBits(transformer, encoder), tokenizer, DATA, loss, seed=0)


def reward_stage(world: World) -> RewardStage:
    torch.manual_seed(0)
    tokenizer = binary_tokenizer(latent_channels=8, base_channels=4, multipliers=(1, 2, 2), blocks_per_level=1, norm_groups=2)
    return RewardStage(SmallClip(), tokenizer, SCALES, DATA, RewardLossConfig(caption_noise=0.5), seed=0, world=world)


def gradient(stage: Stage, shards: list[range], step: int) -> torch.Tensor:
    """Gradient of the mean loss over shards, as data-parallel ranks average it."""
    stage.model.zero_grad()
    for shard in shards:
        (stage.losses(stage.model, list(shard), step=step, first=shard.start, batch_size=4)["loss"] / len(shards)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in stage.model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("build", [tokenizer_stage, transformer_stage])
@pytest.mark.parametrize("step", [0, 7])
def test_two_ranks_have_the_gradient_of_one(build, step: int) -> None:
    stage = build()
    whole = gradient(stage, [range(4)], step)
    shared = gradient(stage, [range(2), range(2, 4)], step)
    assert float(whole.norm()) > 0
    # Sums over rows in another order, float32.
    torch.testing.assert_close(shared, whole, atol=2e-6 * float(whole.abs().max()) + 1e-8, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 7])
def test_two_ranks_report_the_metrics_of_one(step: int) -> None:
    stage = tokenizer_stage()
    whole = stage.losses(stage.model, range(4), step=step, first=0, batch_size=4)["psnr"]
    parts = [stage.losses(stage.model, range(first, first + 2), step=step, first=first, batch_size=4)["psnr"] for first in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


def reward_of(world: World) -> tuple[dict[str, float], torch.Tensor]:
    stage = reward_stage(world)
    shard = world.shard(4)
    metrics = stage.losses(stage.model, [3 - index for index in shard], step=5, first=shard.start, batch_size=4)
    (metrics["loss"] / world.size).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in stage.model.parameters() if parameter.grad is not None])
    values = torch.stack([metrics[key].detach() / world.size for key in sorted(metrics)])
    return dict(zip(sorted(metrics), world.all_reduce_sum(values).tolist(), strict=True)), world.all_reduce_sum(gradient)


def test_two_processes_train_the_reward_of_one() -> None:
    metrics, expected = reward_of(World())
    assert float(expected.norm()) > 0
    for shared, found in run_distributed(reward_of, world_size=2):
        assert shared == pytest.approx(metrics, rel=1e-5)
        torch.testing.assert_close(found, expected, atol=2e-6 * float(expected.abs().max()), rtol=1e-3)


def test_corrupted_copies_have_bits_of_the_next_image_in_one_region_from_one_scale_on() -> None:
    grids = SCALES.latent_grids
    stream = torch.Generator().manual_seed(0)
    bits = [torch.randint(2, (64, *grid, 3), generator=stream, dtype=torch.uint8) for grid in grids]
    corrupted = with_corrupted_regions(bits, generator=torch.Generator().manual_seed(1))
    changed = [(own != after).any(-1) for own, after in zip(bits, corrupted, strict=True)]
    assert not changed[0].any()
    assert (changed[-1].flatten(1).any(1)).all()
    for own, after in zip(bits, corrupted, strict=True):
        assert ((after == own) | (after == own.roll(-1, dims=0))).all()
    for row in range(64):
        touched = changed[-1][row].nonzero()
        span = touched.amax(0) - touched.amin(0) + 1
        assert (span <= torch.tensor(grids[-1]) / 2).all()
        fractions = [float(scale[row].float().mean()) for scale in changed]
        begun = next(index for index, fraction in enumerate(fractions) if fraction)
        assert all(fraction > 0 for fraction in fractions[begun:]) or begun < 2  # a coarse scale may have no cell in the region
    same = [scale[:1].expand_as(scale) for scale in bits]
    assert all(torch.equal(a, b) for a, b in zip(same, with_corrupted_regions(same, generator=stream), strict=True))
