"""Training data of the video model: rendered clips of tiny cinema with the keyframes of all shots of their story."""

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
    """The clip of one shot of a story.

    Attributes:
        story: the whole story.
        index: index of the shot.
        keyframes: keyframes of all shots, in [-1, 1].
        clip: frames of the shot, its keyframe first.
    """

    story: Story
    index: int
    keyframes: Float[Tensor, "shots 3 height width"]
    clip: Float[Tensor, "frames 3 height width"]

    @property
    def storyboard(self) -> Storyboard:
        """Storyboard of all shots; see `ClipExample`."""
        return storyboard_of(self.story, title="tiny cinema", seed=0, described=True)


class TinyClips:
    """Clips by index, rendered on access.

    Args:
        num_examples: number of clips, each from another story.
        num_shots: shots per story.
        num_frames: frames per clip.
        image_size: side of a frame, in pixels.
        seed: seed of the stories; different seeds give independent data.

    Raises:
        UserError: if `num_examples` or `num_shots` is below 1, or `num_frames` below 2.
    """

    def __init__(
        self, num_examples: int, *, num_shots: int = 5, num_frames: int = CLIP_FRAMES, image_size: int = 64, seed: int = 0
    ) -> None:
        if min(num_examples, num_shots) < 1 or num_frames < 2:
            raise UserError(f"num_examples is {num_examples}, num_shots {num_shots} and num_frames {num_frames}: give 1, 1 and 2 or more")
        self.num_examples = num_examples
        self.num_shots = num_shots
        self.num_frames = num_frames
        self.image_size = image_size
        self._seed = seed

    def examples(self, indices: Sequence[int]) -> list[TinyClip]:
        """The clips of `indices`."""
        return [self._example(index) for index in indices]

    def _example(self, index: int) -> TinyClip:
        stream = generator(self._seed, "clip", index)
        story = sample_story(self.num_shots, generator=stream)
        shot = int(torch.randint(self.num_shots, (), generator=stream))
        scenes = [story.scene(other) for other in story.shots]
        keyframes = render_images(scenes, image_size=self.image_size)
        clip = render_clip(scenes[shot], story.shots[shot].action, image_size=self.image_size, num_frames=self.num_frames)
        return TinyClip(story, shot, keyframes, clip)
