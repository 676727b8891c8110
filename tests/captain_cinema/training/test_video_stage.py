"""Training steps of the video model: which frames have a loss, and which frames of a clip are used."""

from collections.abc import Callable
from typing import Any

from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.models import clip_mmdit
from captain_cinema.training.video_stage import VideoLossConfig, VideoStage
from captain_cinema.video.diffusion import ClipConditioning


def test_video_gives_the_keyframe_no_loss_and_the_shot_one_noise(spy: Callable[..., Any]) -> None:
    shown = spy(clip_mmdit)
    part = VideoStage(shown.model, TinyClips(4, num_shots=3), ClipConditioning(num_keyframes=2), VideoLossConfig(), seed=0)
    part.losses(shown, [0, 1], step=0, first=0, batch_size=2)["loss"].backward()
    *around, clip = shown.groups
    assert shown.attention == "joint"
    assert [group.latents.shape[1] for group in around] == [2]
    assert clip.latents.shape == (2, 9, 3, 64, 64)
    assert (clip.timesteps[:, 0] <= 0.1).all()
    assert (clip.timesteps[:, 1:] == clip.timesteps[:, 1:2]).all()
    assert shown.found[-1].grad is not None
    assert (shown.found[-1].grad[:, 0] == 0).all()
    assert (shown.found[-1].grad[:, 1:].flatten(2).abs().amax(2) > 0).all()


def test_a_step_may_use_some_frames_of_every_clip_at_their_times(spy: Callable[..., Any]) -> None:
    shown = spy(clip_mmdit)
    data = TinyClips(4, num_shots=3)
    loss = VideoLossConfig(
        whole_clips=0.5, some_frames=3, keyframe_noise=0.0, fraction_at_one=0.0, timestep_mean=-20.0, timestep_deviation=0.0
    )
    part = VideoStage(shown.model, data, ClipConditioning(num_keyframes=2), loss, seed=0)
    counts, seen = set(), set()
    for step in range(8):
        part.losses(shown, [0, 1], step=step, first=0, batch_size=2)
        clip = shown.groups[-1]
        counts.add(clip.position_ids.shape[1])
        for example, times, frames in zip(data.examples([0, 1]), clip.position_ids.long(), clip.latents, strict=True):
            # Without noise the latents are the frames at their position ids.
            assert (frames - example.clip[times]).abs().max() < 1e-4
            assert times[0] == 0
            assert (times.diff() > 0).all()
            seen |= set(times.tolist())
    assert counts == {4, 9}
    assert seen == set(range(9))
