"""Training data of the keyframe model: rendered stories of tiny cinema, each with a past and alternative next shots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.toy.rendering import render_images
from captain_cinema.toy.stories import GAP_DISTRIBUTIONS, Story, StoryShot, next_shots, sample_story, storyboard_of
from triptych.errors import UserError
from triptych.seeding import generator


@dataclass(frozen=True)
class StoryExample:
    """A story and alternative next shots.

    Attributes:
        story: the story, whose shots are the past.
        next_shots: alternatives for the shot after the past.
        past_frames: keyframes of the past, oldest first, in [-1, 1].
        next_frames: keyframes of the alternatives.
    """

    story: Story
    next_shots: tuple[StoryShot, ...]
    past_frames: Float[Tensor, "past 3 height width"]
    next_frames: Float[Tensor, "alternatives 3 height width"]

    @property
    def storyboard(self) -> Storyboard:
        """Shots of the past, then the alternatives; see `KeyframeExample`."""
        shots = (*self.story.shots[: len(self.past_frames)], *self.next_shots)
        return storyboard_of(replace(self.story, shots=shots), title="tiny cinema", seed=0, described=True)


class TinyCinema:
    """Stories by index, rendered on access, at less than 5 % of the time of a training step.

    Args:
        num_examples: number of stories.
        num_next: alternative next shots per story.
        gap_distribution: `uniform` or `recent`, see `next_shots`.
        image_size: side of a frame, in pixels.
        seed: seed of the stories; different seeds give independent data.

    Raises:
        UserError: if a number is below 1, or `gap_distribution` is unknown.
    """

    def __init__(
        self, num_examples: int, *, num_next: int = 4, gap_distribution: str = "uniform", image_size: int = 64, seed: int = 0
    ) -> None:
        if num_examples < 1 or num_next < 1:
            raise UserError(f"num_examples is {num_examples} and num_next {num_next}: both must be 1 or more")
        if gap_distribution not in GAP_DISTRIBUTIONS:
            raise UserError(f"gap_distribution is '{gap_distribution}': choose one of {', '.join(GAP_DISTRIBUTIONS)}")
        self.num_examples = num_examples
        self.image_size = image_size
        self._num_next = num_next
        self._gap_distribution = gap_distribution
        self._seed = seed

    def examples(self, indices: Sequence[int], *, num_past: int) -> list[StoryExample]:
        """The stories of `indices`, each with a past of `num_past` shots."""
        return [self._example(index, num_past) for index in indices]

    def _example(self, index: int, num_past: int) -> StoryExample:
        stream = generator(self._seed, "story", num_past, index)
        # Without a past, the next shots still follow a story of one shot, which is not part of the example.
        story = sample_story(max(1, num_past), generator=stream)
        upcoming = next_shots(story, self._num_next, gap_distribution=self._gap_distribution, generator=stream)
        frames = render_images([story.scene(shot) for shot in (*story.shots[:num_past], *upcoming)], image_size=self.image_size)
        return StoryExample(story, tuple(upcoming), frames[:num_past], frames[num_past:])
