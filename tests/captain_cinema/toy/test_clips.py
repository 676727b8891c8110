"""Rendered clips of tiny cinema."""

from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.verifier import read_action


def test_clips_start_with_their_keyframe() -> None:
    example = TinyClips(1, num_shots=3).examples([0])[0]
    assert example.keyframes.shape == (3, 3, 64, 64)
    assert (example.clip[0] - example.keyframes[example.index]).abs().max() < 1e-5
    shot = example.story.shots[example.index]
    assert read_action(example.clip, example.story.scene(shot)) == shot.action
