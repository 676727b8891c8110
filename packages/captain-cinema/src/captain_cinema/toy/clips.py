"""Clips of tiny cinema as training data: one shot in motion, and the keyframes of the shots around it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.toy.rendering import CLIP_FRAMES, render_clip, render_images
from captain_cinema.toy.stories import Story, sample_story, storyboard_of
from triptych.errors import UserError
from triptych.seeding import generator


@dataclass(frozen=True)
class TinyClip:
    """A shot of a story.

    Attributes:
        story: all shots.
        index: which of them moves.
        keyframes: of all shots, in [-1, 1].
        clip: the frames of the shot, its keyframe first.
    """

    story: Story
    index: int
    keyframes: Float[Tensor, "shots 3 height width"]
    clip: Float[Tensor, "frames 3 height width"]

    @property
    def storyboard(self) -> Storyboard:
        """Captions of all shots; see `ClipExample`."""
        return storyboard_of(self.story, title="tiny cinema", seed=0, described=True)


class TinyClips:
    """Shots by index, drawn when they are asked for.

    Args:
        num_examples: shots, each of a story of its own.
        num_shots: shots of a story.
        num_frames: frames of a clip.
        image_size: pixels of a side.
        seed: shots of different seeds have nothing in common.

    Raises:
        UserError: if a number is below 1, or a clip has no second frame.
    """

    def __init__(
        self, num_examples: int, *, num_shots: int = 5, num_frames: int = CLIP_FRAMES, image_size: int = 64, seed: int = 0
    ) -> None:
        if min(num_examples, num_shots) < 1 or num_frames < 2:
            raise UserError(f"{num_examples} stories of {num_shots} shots in {num_frames} frames: need 1, 1 and 2 or more")
        self.num_examples = num_examples
        self.num_shots = num_shots
        self.num_frames = num_frames
        self.image_size = image_size
        self._seed = seed

    def examples(self, indices: Sequence[int]) -> list[TinyClip]:
        """The shots of `indices`."""
        return [self._example(index) for index in indices]

    def _example(self, index: int) -> TinyClip:
        stream = generator(self._seed, "clip", index)
        story = sample_story(self.num_shots, generator=stream)
        place = int(torch.randint(self.num_shots, (), generator=stream))
        scenes = [story.scene(shot) for shot in story.shots]
        keyframes = render_images(scenes, image_size=self.image_size)
        clip = render_clip(scenes[place], story.shots[place].action, image_size=self.image_size, num_frames=self.num_frames)
        return TinyClip(story, place, keyframes, clip)
