"""Training steps of the video model: what carries loss, and which frames are shown."""

from collections.abc import Callable

import torch
from torch import Tensor

from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.models import clip_mmdit, keyframe_mmdit
from captain_cinema.training.video_stage import VideoLossConfig, VideoStage
from captain_cinema.video.diffusion import ClipConditioning


def small(build: Callable[..., SmallMMDiT] = keyframe_mmdit) -> SmallMMDiT:
    torch.manual_seed(0)
    model = build(width=32, num_heads=2, num_single=1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return model


class Spy(torch.nn.Module):
    """Hands on to a model and keeps what it was shown."""

    def __init__(self, model: SmallMMDiT) -> None:
        super().__init__()
        self.model = model

    def forward(self, groups: list, *, attention: str) -> list[Tensor]:
        self.groups, self.attention = groups, attention
        self.found = [value.detach().requires_grad_() for value in self.model(groups, attention=attention)]
        return self.found


def test_video_gives_the_keyframe_no_loss_and_the_shot_one_noise() -> None:
    spy = Spy(small(clip_mmdit))
    part = VideoStage(spy.model, TinyClips(4, num_shots=3), ClipConditioning(num_keyframes=2), VideoLossConfig(), seed=0)
    part.losses(spy, [0, 1], step=0, first=0, batch_size=2)["loss"].backward()
    *around, clip = spy.groups
    assert spy.attention == "joint"
    assert [group.latents.shape[1] for group in around] == [2]
    assert clip.latents.shape == (2, 9, 3, 64, 64)
    assert (clip.timesteps[:, 0] <= 0.1).all()
    assert (clip.timesteps[:, 1:] == clip.timesteps[:, 1:2]).all()
    assert spy.found[-1].grad is not None
    assert (spy.found[-1].grad[:, 0] == 0).all()
    assert (spy.found[-1].grad[:, 1:].flatten(2).abs().amax(2) > 0).all()


def test_a_step_may_show_some_frames_of_every_clip_at_their_moments() -> None:
    spy = Spy(small(clip_mmdit))
    data = TinyClips(4, num_shots=3)
    loss = VideoLossConfig(
        whole_clips=0.5, some_frames=3, keyframe_noise=0.0, share_at_one=0.0, timestep_mean=-20.0, timestep_deviation=0.0
    )
    part = VideoStage(spy.model, data, ClipConditioning(num_keyframes=2), loss, seed=0)
    counts, seen = set(), set()
    for step in range(8):
        part.losses(spy, [0, 1], step=step, first=0, batch_size=2)
        clip = spy.groups[-1]
        counts.add(clip.position_ids.shape[1])
        for example, slots, frames in zip(data.examples([0, 1]), clip.position_ids.long(), clip.latents, strict=True):
            # Without noise the frames are those of their moments.
            assert (frames - example.clip[slots]).abs().max() < 1e-4
            assert slots[0] == 0
            assert (slots.diff() > 0).all()
            seen |= set(slots.tolist())
    assert counts == {4, 9}
    assert seen == set(range(9))
