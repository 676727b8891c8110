"""The contract of video generators, tested for every implementation."""

from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec

import pytest
import torch

from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.images import to_bytes
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.video import Clip, VideoGenerator
from captain_cinema.video.diffusion import DiffusionClips
from captain_cinema.video.interpolation import CameraMoves

WITHOUT_TOY = pytest.mark.skipif(find_spec("captain_cinema.toy") is None, reason="captain_cinema.toy is absent")
RATE = Fraction(12)


def tiny_cinema(clip_model: SmallMMDiT) -> VideoGenerator:
    from captain_cinema.toy import load_clips

    return load_clips(num_steps=1)


@pytest.fixture(
    params=[
        lambda _: CameraMoves(),
        lambda _: CameraMoves(scale=2),
        lambda model: DiffusionClips(model, frames_per_clip=5, num_steps=1),
        lambda model: DiffusionClips(model, frames_per_clip=5, num_steps=1, scale=2),
        pytest.param(tiny_cinema, marks=WITHOUT_TOY),
    ],
    ids=["camera", "camera doubled", "diffusion", "diffusion doubled", "tiny_cinema"],
)
def video(request: pytest.FixtureRequest, clip_model: SmallMMDiT) -> VideoGenerator:
    build: Callable[[SmallMMDiT], VideoGenerator] = request.param
    return build(clip_model)


def story() -> tuple[Storyboard, list[torch.Tensor]]:
    shots = tuple(Shot("ada in the attic", ("ada",), "attic", seconds=seconds) for seconds in (0.5, 1.0, 0.01))
    frames = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Storyboard("film", {"ada": ""}, {"attic": ""}, shots, 3), list(frames)


def test_clips_are_bytes_of_one_size_with_the_duration_of_their_shot_and_start_with_its_keyframe(video: VideoGenerator) -> None:
    board, keyframes = story()
    clips = list(video.clips(board, keyframes, frames_per_second=RATE))
    assert len(clips) == 3
    for clip, shot, keyframe in zip(clips, board.shots, keyframes, strict=True):
        assert isinstance(clip, Clip)
        assert clip.frames.dtype == torch.uint8
        assert tuple(clip.frames.shape) == (video.num_frames(shot.seconds, RATE), 64 * video.scale, 64 * video.scale, 3)
        assert (clip.frames[0].int() - to_bytes(keyframe[None], scale=video.scale)[0].int()).abs().max() <= 1
        assert (clip.sound is None) == (clip.sample_rate is None)


def test_the_number_of_frames_is_positive_and_grows_with_the_duration(video: VideoGenerator) -> None:
    counts = [video.num_frames(seconds, rate) for rate in (Fraction(12), Fraction(24000, 1001)) for seconds in (0.001, 0.5, 1.0, 7.3)]
    assert min(counts) >= 1
    assert counts[:4] == sorted(counts[:4])
    assert counts[4:] == sorted(counts[4:])


def test_clips_are_lazy_and_deterministic(video: VideoGenerator) -> None:
    board, keyframes = story()
    clips = video.clips(board, keyframes, frames_per_second=RATE)
    assert iter(clips) is clips
    first = next(clips)
    assert torch.equal(first.frames, next(video.clips(board, keyframes, frames_per_second=RATE)).frames)
