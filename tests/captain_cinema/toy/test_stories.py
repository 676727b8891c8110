"""Stories: cast, captions, reappearances and their gaps."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captain_cinema.toy.captions import parse_caption
from captain_cinema.toy.dataset import TinyCinema
from captain_cinema.toy.rendering import (
    render_images,
)
from captain_cinema.toy.stories import gap_of, next_shots, sample_story


@given(st.integers(0, 10**6), st.integers(1, 24))
@settings(max_examples=25)
def test_stories_keep_their_cast_and_captions_never_describe(seed: int, count: int) -> None:
    story = sample_story(count, generator=torch.Generator().manual_seed(seed))
    assert len(story.shots) == count
    assert {shot.name for shot in story.shots} <= set(story.characters)
    scenes = [len(list(group)) for _, group in itertools.groupby(story.shots, key=lambda shot: shot.place)]
    assert all(2 <= length <= 4 for length in scenes[:-1])
    for shot in story.shots:
        caption = shot.caption
        assert caption.colour is caption.wall is None
        assert parse_caption(caption.text).text == caption.text
    (following,) = next_shots(story, 1, generator=torch.Generator().manual_seed(seed + 1))
    assert gap_of(story.shots, following.name) is not None
    assert gap_of(story.shots, following.place) is not None


def test_alternatives_show_one_character_at_one_place() -> None:
    example = TinyCinema(1, num_next=4).examples([0], num_past=8)[0]
    assert len({(shot.name, shot.place, shot.prop) for shot in example.next_shots}) == 1
    assert len({(shot.size, shot.position) for shot in example.next_shots}) > 1
    assert example.past_frames.shape == (8, 3, 64, 64)
    assert torch.equal(example.next_frames, render_images([example.story.scene(shot) for shot in example.next_shots]))
    again = TinyCinema(1, num_next=4).examples([0], num_past=8)[0]
    assert torch.equal(example.next_frames, again.next_frames)


def test_recent_gaps_are_shorter() -> None:
    def mean_gap(distribution: str) -> float:
        gaps = []
        for seed in range(200):
            story = sample_story(16, generator=torch.Generator().manual_seed(seed))
            (shot,) = next_shots(story, 1, gap_distribution=distribution, generator=torch.Generator().manual_seed(seed))
            gaps.append(gap_of(story.shots, shot.name) or 0)
        return sum(gaps) / len(gaps)

    assert mean_gap("recent") < 0.7 * mean_gap("uniform")
