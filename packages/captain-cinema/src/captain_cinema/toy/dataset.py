"""Tiny cinema as training data: a past of several shots and alternative next shots of the same story."""

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
    """A story and what may come next.

    Attributes:
        story: with the past as its shots.
        next_shots: alternatives, each of which could be the shot after the past.
        past_frames: keyframes of the past, oldest first, in [-1, 1].
        next_frames: keyframes of the alternatives.
    """

    story: Story
    next_shots: tuple[StoryShot, ...]
    past_frames: Float[Tensor, "past 3 height width"]
    next_frames: Float[Tensor, "alternatives 3 height width"]

    @property
    def storyboard(self) -> Storyboard:
        """Past and alternatives; see `KeyframeExample`."""
        shots = (*self.story.shots[: len(self.past_frames)], *self.next_shots)
        return storyboard_of(replace(self.story, shots=shots), title="tiny cinema", seed=0, described=True)


class TinyCinema:
    """Stories by index, drawn when they are asked for: that costs less than a twentieth of a training step.

    Args:
        num_examples: stories.
        num_next: alternative next shots of each.
        gap_distribution: `uniform` or `recent`, see `next_shots`.
        image_size: pixels of a side.
        seed: stories of different seeds have nothing in common.

    Raises:
        UserError: if there is no story or no next shot, or the law is unknown.
    """

    def __init__(
        self, num_examples: int, *, num_next: int = 4, gap_distribution: str = "uniform", image_size: int = 64, seed: int = 0
    ) -> None:
        if num_examples < 1 or num_next < 1:
            raise UserError(f"{num_examples} stories with {num_next} next shots: both must be 1 or more")
        if gap_distribution not in GAP_DISTRIBUTIONS:
            raise UserError(f"gap_distribution is '{gap_distribution}': choose one of {', '.join(GAP_DISTRIBUTIONS)}")
        self.num_examples = num_examples
        self.image_size = image_size
        self._num_next = num_next
        self._gap_distribution = gap_distribution
        self._seed = seed

    def examples(self, indices: Sequence[int], *, num_past: int) -> list[StoryExample]:
        """The stories of `indices`, each with `num_past` shots before its next ones."""
        return [self._example(index, num_past) for index in indices]

    def _example(self, index: int, num_past: int) -> StoryExample:
        stream = generator(self._seed, "story", num_past, index)
        # The first shot of a story has no past: its next shots come from a shot that nobody is shown.
        story = sample_story(max(1, num_past), generator=stream)
        upcoming = next_shots(story, self._num_next, gap_distribution=self._gap_distribution, generator=stream)
        frames = render_images([story.scene(shot) for shot in (*story.shots[:num_past], *upcoming)], image_size=self.image_size)
        return StoryExample(story, tuple(upcoming), frames[:num_past], frames[num_past:])
