"""Stories as training data: frames and captions of one story, independence of batch and size, and refusals."""

import pytest
import torch

from captain_cinema.toy.captions import parse_caption
from captain_cinema.toy.dataset import TinyCinema
from captain_cinema.toy.rendering import Identity, Setting, render_images
from triptych.errors import UserError


@pytest.mark.parametrize("num_past", [0, 1, 5])
def test_frames_are_those_of_the_shots_of_the_storyboard(num_past: int) -> None:
    for example in TinyCinema(4, num_next=3).examples([2, 0], num_past=num_past):
        shots = (*example.story.shots[:num_past], *example.next_shots)
        board = example.storyboard
        assert len(board.shots) == num_past + 3
        assert example.past_frames.shape == (num_past, 3, 64, 64)
        assert torch.equal(
            torch.cat((example.past_frames, example.next_frames)), render_images([example.story.scene(shot) for shot in shots])
        )
        for shot, own in zip(board.shots, shots, strict=True):
            caption = parse_caption(shot.caption)
            assert (caption.name, caption.place, caption.size, caption.position) == (own.name, own.place, own.size, own.position)
            assert shot.tags == own.tags


def test_the_storyboard_describes_every_look_of_the_story() -> None:
    (example,) = TinyCinema(1).examples([0], num_past=6)
    board = example.storyboard
    for name, text in board.characters.items():
        look = parse_caption(text)
        assert Identity(look.colour, look.shape, look.hat, look.badge) == example.story.characters[name]  # type: ignore[arg-type]
    for place, text in board.places.items():
        look = parse_caption(text)
        assert Setting(look.wall, look.ground, look.decoration) == example.story.places[place]  # type: ignore[arg-type]
    assert {tag for shot in board.shots for tag in shot.tags} == set(board.characters) | set(board.places)


def test_an_example_depends_on_its_index_and_the_seed_alone() -> None:
    (alone,) = TinyCinema(3, seed=1).examples([2], num_past=4)
    together = TinyCinema(100, seed=1).examples([7, 2], num_past=4)
    assert together[1].story == alone.story
    assert together[1].next_shots == alone.next_shots
    assert torch.equal(together[1].next_frames, alone.next_frames)
    stories = [example.story for example in TinyCinema(8, seed=1).examples(range(8), num_past=4)]
    assert all(stories[one] != stories[other] for one in range(8) for other in range(one))
    assert TinyCinema(3, seed=2).examples([2], num_past=4)[0].story != alone.story


def test_the_image_size_changes_the_frames_and_not_the_story() -> None:
    (small,), (full,) = (TinyCinema(1, image_size=size).examples([0], num_past=2) for size in (32, 64))
    assert small.story == full.story
    assert small.past_frames.shape == (2, 3, 32, 32)
    # Anti-aliased edges, at most a tenth of the pixels, differ between the sizes by a fraction of 1; areas without an edge do not.
    halved = torch.nn.functional.avg_pool2d(full.past_frames, 2)
    assert (small.past_frames - halved).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_examples": 0}, "num_examples is 0 and num_next 4: both must be 1 or more"),
        ({"num_examples": 1, "num_next": 0}, "num_next 0"),
        ({"num_examples": 1, "gap_distribution": "old"}, "gap_distribution is 'old': choose one of uniform, recent"),
    ],
    ids=["examples", "next", "gaps"],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TinyCinema(**settings)  # type: ignore[arg-type]
