"""Camera moves and fades."""

from fractions import Fraction

import torch

from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.images import to_bytes
from captain_cinema.video import num_clip_frames
from captain_cinema.video.interpolation import CameraMoves


def frames(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def film(places: tuple[str, ...] = ("attic", "attic", "park")) -> Storyboard:
    shots = tuple(Shot("ada in the attic", ("ada",), place, seconds=0.5) for place in places)
    return Storyboard("a film", {"ada": ""}, dict.fromkeys(places, ""), shots)


def test_camera_moves_start_with_the_keyframe_and_fade_between_shots_at_one_place() -> None:
    keyframes = list(frames(3))
    shown = to_bytes(torch.stack(keyframes)).int()
    clips = [clip.frames.int() for clip in CameraMoves(fade_seconds=0.25).clips(film(), keyframes, frames_per_second=Fraction(12))]
    assert [len(clip) for clip in clips] == [6, 6, 6]
    for clip, keyframe in zip(clips, shown, strict=True):
        assert torch.equal(clip[0], keyframe)
    assert torch.equal(clips[0][-1], shown[1])
    assert (clips[1][-1] - shown[2]).abs().float().mean() > 0.1 * 127.5
    still = next(CameraMoves(zoom=0.0, fade_seconds=0.0).clips(film(), keyframes, frames_per_second=Fraction(12)))
    assert (still.frames.int() - shown[0]).abs().max() <= 1
    assert num_clip_frames(0.01, Fraction(12)) == 1
