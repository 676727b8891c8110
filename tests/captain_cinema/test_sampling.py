"""Keyframe sampling: batch invariance, fixed frames, memory in rank order and references."""

from dataclasses import replace

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.sampling import MODES, KeyframeSampler, Reference, SamplingConfig
from captain_cinema.toy.stories import sample_story
from triptych.errors import UserError


def board(seed: int, count: int = 4) -> Storyboard:
    story = sample_story(count, generator=torch.Generator().manual_seed(seed))
    shots = tuple(Shot(shot.caption.text, (shot.name,), shot.place) for shot in story.shots)
    return Storyboard("a film", dict.fromkeys(story.characters, ""), dict.fromkeys(story.places, ""), shots, seed)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_samples_do_not_depend_on_the_batch(model: SmallMMDiT, mode: str) -> None:
    sampler = KeyframeSampler(model, MemoryPolicy(), SamplingConfig(mode=mode, num_steps=2), image_size=(64, 64))
    together = sampler.sample_many([board(1), board(2)])
    for own, seed in zip(together, (1, 2), strict=True):
        for keyframe, alone in zip(own, sampler.sample(board(seed)), strict=True):
            assert (keyframe.frame - alone.frame).abs().max() < 1e-5
            assert keyframe.remembered == alone.remembered


@pytest.mark.parametrize("mode", sorted(MODES))
def test_one_shot_is_resampled_and_the_others_stay(model: SmallMMDiT, mode: str) -> None:
    sampler = KeyframeSampler(model, MemoryPolicy(), SamplingConfig(mode=mode, num_steps=2), image_size=(64, 64))
    film = board(3)
    first = sampler.sample(film)
    fixed = {index: keyframe.frame for index, keyframe in enumerate(first) if index != 1}
    other = replace(film, shots=tuple(replace(shot, seed=5) if index == 1 else shot for index, shot in enumerate(film.shots)))
    again = sampler.sample(other, fixed=fixed)
    for index in (0, 2, 3):
        assert torch.equal(again[index].frame, first[index].frame)
    assert (again[1].frame - first[1].frame).abs().max() > 1e-3
    if mode != "joint":
        # The fixed frames of later shots are part of the memory of the resampled one.
        assert {entry.source for entry in again[1].remembered} == {0, 2, 3}


def test_the_memory_of_a_shot_follows_its_policy(model: SmallMMDiT) -> None:
    film = board(4, count=6)
    golden = KeyframeSampler(model, MemoryPolicy(frames_per_level=1), SamplingConfig(num_steps=1), image_size=(64, 64)).sample(film)
    assert [entry.grid[0] for entry in golden[5].remembered] == [8, 4, 3, 1, 1]
    wanted = film.shots[5].tags
    shared = [len(set(film.shots[entry.source].tags) & set(wanted)) for entry in golden[5].remembered]
    assert shared[0] == max(len(set(shot.tags) & set(wanted)) for shot in film.shots[:5])
    newest = KeyframeSampler(
        model, MemoryPolicy("uniform", order="time", count=2), SamplingConfig(num_steps=1), image_size=(64, 64)
    ).sample(film)
    assert [entry.source for entry in newest[5].remembered] == [4, 3]
    none = KeyframeSampler(model, MemoryPolicy("none"), SamplingConfig(num_steps=1), image_size=(64, 64)).sample(film)
    assert none[5].remembered == ()
    assert none[5].tokens == 64 + model.text_tokens
    assert newest[5].tokens == 3 * (64 + model.text_tokens)


def test_memory_captions_have_no_descriptions(model: SmallMMDiT) -> None:
    film = board(4, count=2)
    name = film.shots[0].characters[0]
    described = replace(film, characters={**film.characters, name: "red, circle, cap, bar"})
    fixed = {0: torch.zeros(3, 64, 64)}
    second = replace(film.shots[1], characters=(name,), caption=film.shots[1].caption.replace(film.shots[1].characters[0], name))
    film, described = replace(film, shots=(film.shots[0], second)), replace(described, shots=(film.shots[0], second))
    for mode, same in (("extend", True), ("causal", False)):
        sampler = KeyframeSampler(model, MemoryPolicy(), SamplingConfig(mode=mode, num_steps=1), image_size=(64, 64))
        one, other = (sampler.sample(entry, fixed=fixed)[1].frame for entry in (film, described))
        assert torch.equal(one, other) == same, mode


def test_a_reference_is_in_the_memory_of_the_first_shot(model: SmallMMDiT) -> None:
    film = board(5)
    sampler = KeyframeSampler(model, MemoryPolicy(), SamplingConfig(num_steps=1), image_size=(64, 64))
    reference = Reference(torch.zeros(3, 64, 64), film.shots[0].caption, film.shots[0].tags)
    found = sampler.sample(film, references=[reference])
    assert [entry.source for entry in found[0].remembered] == [-1]
    assert (found[0].frame - sampler.sample(film)[0].frame).abs().max() > 1e-6
    with pytest.raises(UserError, match="32 x 64 but image_size is 64 x 64"):
        sampler.sample(film, references=[replace(reference, frame=torch.zeros(3, 32, 64))])
