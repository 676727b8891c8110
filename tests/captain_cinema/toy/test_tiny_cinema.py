"""The drawn world: stories, captions, and a judge that reads pictures exactly."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captain_cinema.toy.captions import CAPTION_FIELDS, VOCABULARY_SIZES, Caption, caption_indices, parse_caption
from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.dataset import TinyCinema
from captain_cinema.toy.drawing import (
    ACTIONS,
    IDENTITY_VALUES,
    POSITIONS,
    PROPS,
    SETTING_VALUES,
    SIZES,
    Identity,
    Picture,
    Setting,
    draw_clip,
    draw_pictures,
)
from captain_cinema.toy.stories import gap_of, next_shots, sample_story
from captain_cinema.toy.verifier import IDENTITIES, SETTINGS, every_identity, every_setting, read_action, read_frames
from triptych.errors import UserError


def pictures(count: int, seed: int = 0) -> list[Picture]:
    stream = torch.Generator().manual_seed(seed)

    def one(values) -> str:
        return values[int(torch.randint(len(values), (), generator=stream))]

    return [
        Picture(
            Identity(*map(one, IDENTITY_VALUES)), Setting(*map(one, SETTING_VALUES)), one(tuple(SIZES)), one(tuple(POSITIONS)), one(PROPS)
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_judge_is_exact(noise: float) -> None:
    wanted = pictures(200)
    frames = draw_pictures(wanted)
    frames = frames + noise * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    readings = read_frames(frames, wanted)
    assert [(reading.identity, reading.setting) for reading in readings] == [(picture.identity, picture.setting) for picture in wanted]
    assert [reading.prop for reading in readings] == [picture.prop for picture in wanted]
    if not noise:
        assert max(reading.residual for reading in readings) < 1e-3


def test_the_judge_is_at_chance_on_other_pictures() -> None:
    wanted = pictures(300)
    shown = [
        Picture(other.identity, other.setting, own.size, own.position, own.prop)
        for own, other in zip(wanted, pictures(300, 9), strict=True)
    ]
    readings = read_frames(draw_pictures(shown), wanted)
    right = sum(reading.identity.colour == picture.identity.colour for reading, picture in zip(readings, wanted, strict=True)) / 300
    assert abs(right - 1 / 6) < 4 * (5 / 36 / 300) ** 0.5
    assert [reading.identity for reading in readings] == [picture.identity for picture in shown]


def test_what_is_not_of_this_world_is_far_from_it() -> None:
    wanted = pictures(4)
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert min(reading.residual for reading in read_frames(noise, wanted)) > 0.4


def test_every_detail_changes_the_picture() -> None:
    base = Picture(IDENTITIES[0], SETTINGS[0], "wide", "left", "none")
    frames = every_identity(base)
    assert len(frames) == len(IDENTITIES) == 384
    assert torch.cdist(frames.flatten(1), frames.flatten(1)).fill_diagonal_(9).min() > 0.1


@pytest.mark.parametrize("index", range(3))
def test_composed_candidates_are_the_drawings(index: int) -> None:
    (picture,) = pictures(1, seed=20 + index)
    plain = Picture(picture.identity, picture.setting, picture.size, picture.position, "none")
    drawn = draw_pictures([plain])[0]
    assert (every_identity(picture)[IDENTITIES.index(picture.identity)] - drawn).abs().max() < 1e-5
    assert (every_setting(picture)[SETTINGS.index(picture.setting)] - drawn).abs().max() < 1e-5


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_read_from_motion_alone(action: str) -> None:
    stream = torch.Generator().manual_seed(3)
    mixed_right = 0
    for picture in pictures(12, seed=5):
        clip = draw_clip(picture, action)
        assert torch.equal(clip[0], draw_pictures([picture])[0])
        assert read_action(clip, picture) == action
        assert read_action(clip[:1].expand_as(clip), picture) == "still"
        mixed = torch.cat((clip[:1], clip[1 + torch.randperm(len(clip) - 1, generator=stream)]))
        mixed_right += read_action(mixed, picture) == action
    assert action == "still" or mixed_right <= 4


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
    assert torch.equal(example.next_frames, draw_pictures([example.story.picture(shot) for shot in example.next_shots]))
    again = TinyCinema(1, num_next=4).examples([0], num_past=8)[0]
    assert torch.equal(example.next_frames, again.next_frames)


def test_recent_gaps_are_shorter() -> None:
    def mean_gap(law: str) -> float:
        gaps = []
        for seed in range(200):
            story = sample_story(16, generator=torch.Generator().manual_seed(seed))
            (shot,) = next_shots(story, 1, gap_law=law, generator=torch.Generator().manual_seed(seed))
            gaps.append(gap_of(story.shots, shot.name) or 0)
        return sum(gaps) / len(gaps)

    assert mean_gap("recent") < 0.7 * mean_gap("uniform")


def test_clips_begin_with_their_keyframe() -> None:
    example = TinyClips(1, num_shots=3).examples([0])[0]
    assert example.keyframes.shape == (3, 3, 64, 64)
    assert (example.clip[0] - example.keyframes[example.index]).abs().max() < 1e-5
    shot = example.story.shots[example.index]
    assert read_action(example.clip, example.story.picture(shot)) == shot.action


def test_captions_are_read_back() -> None:
    look, setting = Identity("blue", "circle", "none", "bar"), Setting(SETTING_VALUES[0][0], "moss", "none")
    caption = Caption("ada", "attic", "wide", "left", "red", "walk left").described(look, setting)
    assert parse_caption(caption.text) == caption
    indices = caption_indices([caption])
    assert indices.shape == (1, len(CAPTION_FIELDS))
    assert (indices < torch.tensor(VOCABULARY_SIZES)).all()
    assert (indices > 0).all()


def test_silence_about_box_and_action_means_none() -> None:
    told, silent = Caption("ada", "attic", "wide", "left", "none", "still"), parse_caption("ada in the attic, wide shot, on the left")
    assert told.text == "ada in the attic, wide shot, on the left"
    assert torch.equal(caption_indices([told]), caption_indices([silent]))
    assert caption_indices([silent])[0, CAPTION_FIELDS.index("colour")] == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ada in the attic with a dragon", "says 'dragon', which tiny cinema does not know"),
        ("ada and bo", "says both"),
        ("ада", "says 'ада'"),
    ],
)
def test_a_caption_of_another_world_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_caption(text)
