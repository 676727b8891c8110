"""Clips of a model: repeated frames, batch invariance and conditioning."""

from fractions import Fraction

import pytest
import torch

from captain_cinema.images import to_bytes
from captain_cinema.models import CaptionEmbeddings, PixelSpace
from captain_cinema.toy.models import clip_mmdit
from captain_cinema.toy.planner import plan_storyboard
from captain_cinema.video.diffusion import ClipConditioning, DiffusionClips


def frames(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def animator() -> DiffusionClips:
    torch.manual_seed(0)
    model = clip_mmdit(width=32, num_heads=2, num_single=1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return DiffusionClips(model.eval(), frames_per_clip=9, num_steps=2)


def test_clips_start_with_the_keyframe_and_have_the_duration_of_their_shot(animator: DiffusionClips) -> None:
    board = plan_storyboard("ada jumps in the attic; bo walks; ada returns")
    keyframes = list(frames(3))
    clips = [clip.frames.int() for clip in animator.clips(board, keyframes, frames_per_second=Fraction(12))]
    assert [len(clip) for clip in clips] == [18] * 3
    for clip, keyframe in zip(clips, to_bytes(torch.stack(keyframes)).int(), strict=True):
        assert torch.equal(clip[0], keyframe)
        assert torch.equal(clip[1], keyframe)  # 9 sampled frames, each repeated twice
        assert (clip[2] - keyframe).abs().max() > 1


def test_clips_do_not_depend_on_the_batch_and_depend_on_other_keyframes(animator: DiffusionClips) -> None:
    keyframes = torch.stack([frames(3), frames(3).flip(0)])
    captions = CaptionEmbeddings(torch.ones(2, 3, 13, dtype=torch.long))
    both = animator.animate(keyframes, captions, [0, 2], seeds=[1, 2])
    alone = animator.animate(keyframes[1:], captions[1:], [2], seeds=[2])
    assert (both[1:] - alone).abs().max() < 1e-5
    other = keyframes[1:].clone()
    other[:, 0] = 0
    assert (animator.animate(other, captions[1:], [2], seeds=[2]) - alone).abs().max() > 1e-6


def test_conditioning_takes_the_nearest_keyframes_at_shrinking_sizes() -> None:
    keyframes = torch.arange(6.0).view(1, 6, 1, 1, 1).expand(1, 6, 3, 64, 64)
    captions = CaptionEmbeddings(torch.arange(6).view(1, 6, 1))
    groups = ClipConditioning(num_keyframes=4, frames_per_level=2).frames(keyframes, captions, [2], PixelSpace(8))
    assert [group.latents[0, :, 0, 0, 0].tolist() for group in groups] == [[1, 3], [0, 4]]
    assert [group.captions.tokens[0, :, 0].tolist() for group in groups] == [[1, 3], [0, 4]]
    assert [group.latents.shape[-1] for group in groups] == [32, 24]
    assert groups[0].position_ids[0, 0] == -groups[0].position_ids[0, 1] < 0
    assert ClipConditioning(num_keyframes=0).frames(keyframes, captions, [2], PixelSpace(8)) == []
