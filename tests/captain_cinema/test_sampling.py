"""Drawing: side by side as alone, fixed frames kept, memory in rank order, references, and the exact model's own answer."""

from dataclasses import replace

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy, position_ids_by_rank, remembered_frames
from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.models import CaptionEmbeddings, Frames, KeyframeModel, PixelSpace
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.numerics.flow import sampling_timesteps
from captain_cinema.numerics.memory import MemoryPlan
from captain_cinema.sampling import MODES, DrawingConfig, KeyframeSampler, Reference
from captain_cinema.toy.captions import caption_indices, parse_caption
from captain_cinema.toy.drawing import draw_pictures
from captain_cinema.toy.evaluation import compare
from captain_cinema.toy.models import keyframe_mmdit
from captain_cinema.toy.probe import (
    IDENTITY_PARTS,
    SETTING_PARTS,
    Outcome,
    Return,
    draw_returns,
    read_identity,
    read_setting,
    sample_returns,
)
from captain_cinema.toy.stories import sample_story
from triptych.errors import UserError


@pytest.fixture(scope="module")
def model() -> SmallMMDiT:
    torch.manual_seed(0)
    model = keyframe_mmdit(width=32, num_heads=2, num_double=1, num_single=1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    return model.eval()


def sampler_of(model: KeyframeModel, memory: MemoryPolicy, drawing: DrawingConfig) -> KeyframeSampler:
    return KeyframeSampler(model, memory, drawing, image_size=(64, 64))


def past(pixels: torch.Tensor, captions: torch.Tensor, noise: torch.Tensor | None = None) -> Frames:
    batch, count = pixels.shape[:2]
    timesteps = torch.zeros(batch, count) if noise is None else noise
    return Frames(pixels, CaptionEmbeddings(captions), timesteps, position_ids_by_rank(batch, count))


def board(seed: int, count: int = 4) -> Storyboard:
    story = sample_story(count, generator=torch.Generator().manual_seed(seed))
    shots = tuple(Shot(shot.caption.text, (shot.name,), shot.place) for shot in story.shots)
    return Storyboard("a film", dict.fromkeys(story.characters, ""), dict.fromkeys(story.places, ""), shots, seed)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_films_side_by_side_come_out_as_alone(model: SmallMMDiT, mode: str) -> None:
    sampler = sampler_of(model, MemoryPolicy(), DrawingConfig(mode=mode, num_steps=2))
    together = sampler.draw_many([board(1), board(2)])
    for own, seed in zip(together, (1, 2), strict=True):
        for keyframe, alone in zip(own, sampler.draw(board(seed)), strict=True):
            assert (keyframe.frame - alone.frame).abs().max() < 1e-5
            assert keyframe.remembered == alone.remembered


@pytest.mark.parametrize("mode", sorted(MODES))
def test_one_shot_is_redrawn_and_the_rest_stays(model: SmallMMDiT, mode: str) -> None:
    sampler = sampler_of(model, MemoryPolicy(), DrawingConfig(mode=mode, num_steps=2))
    film = board(3)
    drawn = sampler.draw(film)
    fixed = {index: keyframe.frame for index, keyframe in enumerate(drawn) if index != 1}
    other = replace(film, shots=tuple(replace(shot, seed=5) if index == 1 else shot for index, shot in enumerate(film.shots)))
    again = sampler.draw(other, fixed=fixed)
    for index in (0, 2, 3):
        assert torch.equal(again[index].frame, drawn[index].frame)
    assert (again[1].frame - drawn[1].frame).abs().max() > 1e-3
    if mode != "joint":
        # The shots that follow are part of the redrawn one's memory.
        assert {entry.source for entry in again[1].remembered} == {0, 2, 3}


def test_a_shot_remembers_what_its_policy_says(model: SmallMMDiT) -> None:
    film = board(4, count=6)
    golden = sampler_of(model, MemoryPolicy(frames_per_level=1), DrawingConfig(num_steps=1)).draw(film)
    assert [entry.grid[0] for entry in golden[5].remembered] == [8, 4, 3, 1, 1]
    wanted = film.shots[5].tags
    shared = [len(set(film.shots[entry.source].tags) & set(wanted)) for entry in golden[5].remembered]
    assert shared[0] == max(len(set(shot.tags) & set(wanted)) for shot in film.shots[:5])
    newest = sampler_of(model, MemoryPolicy("uniform", order="time", count=2), DrawingConfig(num_steps=1)).draw(film)
    assert [entry.source for entry in newest[5].remembered] == [4, 3]
    none = sampler_of(model, MemoryPolicy("none"), DrawingConfig(num_steps=1)).draw(film)
    assert none[5].remembered == ()
    assert none[5].tokens == 64 + model.text_tokens
    assert newest[5].tokens == 3 * (64 + model.text_tokens)


def test_a_memory_is_named_and_not_described(model: SmallMMDiT) -> None:
    film = board(4, count=2)
    name = film.shots[0].characters[0]
    told = replace(film, characters={**film.characters, name: "red, circle, cap, bar"})
    fixed = {0: torch.zeros(3, 64, 64)}
    second = replace(film.shots[1], characters=(name,), caption=film.shots[1].caption.replace(film.shots[1].characters[0], name))
    film, told = replace(film, shots=(film.shots[0], second)), replace(told, shots=(film.shots[0], second))
    for mode, same in (("extend", True), ("causal", False)):
        sampler = sampler_of(model, MemoryPolicy(), DrawingConfig(mode=mode, num_steps=1))
        one, other = (sampler.draw(entry, fixed=fixed)[1].frame for entry in (film, told))
        assert torch.equal(one, other) == same, mode


def test_a_reference_is_remembered_from_the_first_shot(model: SmallMMDiT) -> None:
    film = board(5)
    sampler = sampler_of(model, MemoryPolicy(), DrawingConfig(num_steps=1))
    reference = Reference(torch.zeros(3, 64, 64), film.shots[0].caption, film.shots[0].tags)
    found = sampler.draw(film, references=[reference])
    assert [entry.source for entry in found[0].remembered] == [-1]
    assert (found[0].frame - sampler.draw(film)[0].frame).abs().max() > 1e-6
    with pytest.raises(UserError, match="32 x 64 pixels: the film's frames are 64 x 64"):
        sampler.draw(film, references=[replace(reference, frame=torch.zeros(3, 32, 64))])


def test_a_memory_follows_ranks_and_sizes() -> None:
    frames = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(2, 5, 3, 64, 64).contiguous()
    captions = torch.arange(5).view(1, 5, 1).expand(2, 5, 2)
    plan = MemoryPlan(((8, 8), (4, 4), (4, 4)), num_dropped=2)
    ranks = [[4, 0, 2, 1, 3], [1, 2, 3, 4, 0]]
    groups = remembered_frames(past(frames, captions), ranks, plan, PixelSpace(8))
    assert [tuple(group.latents.shape) for group in groups] == [(2, 1, 3, 64, 64), (2, 2, 3, 32, 32)]
    assert torch.cat([group.latents[:, :, 0, 0, 0] for group in groups], dim=1).tolist() == [[4, 0, 2], [1, 2, 3]]
    assert torch.cat([group.captions.tokens[:, :, 0] for group in groups], dim=1).tolist() == [[4, 0, 2], [1, 2, 3]]
    assert torch.cat([group.position_ids for group in groups], dim=1).tolist() == [[1, 2, 3]] * 2
    assert all(group.is_memory for group in groups)


def test_permuting_frames_and_ranks_together_changes_nothing() -> None:
    stream = torch.Generator().manual_seed(0)
    frames, captions = torch.randn(1, 6, 3, 64, 64, generator=stream), torch.arange(6).view(1, 6, 1)
    order = [3, 5, 0, 1, 4, 2]
    moved = torch.randperm(6, generator=stream)
    place = {int(old): new for new, old in enumerate(moved)}
    plan = MemoryPolicy().plan(6, short_side=8)
    one = remembered_frames(past(frames, captions), [order], plan, PixelSpace(8))
    two = remembered_frames(past(frames[:, moved], captions[:, moved]), [[place[index] for index in order]], plan, PixelSpace(8))
    for own, other in zip(one, two, strict=True):
        assert torch.equal(own.latents, other.latents)
        assert torch.equal(own.captions.tokens, other.captions.tokens)


def test_noise_of_the_memory_is_a_stream_per_story() -> None:
    frames, captions = torch.zeros(2, 2, 3, 64, 64), torch.zeros(2, 2, 1, dtype=torch.long)
    plan = MemoryPolicy("uniform").plan(2, short_side=8)

    def drawn(seeds: list[int], rows: slice) -> torch.Tensor:
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        ranks = [[0, 1]] * len(seeds)
        noise = torch.full((len(seeds), 2), 0.2)
        return remembered_frames(past(frames[rows], captions[rows], noise), ranks, plan, PixelSpace(8), generators=streams)[0].latents

    both = drawn([1, 2], slice(0, 2))
    assert torch.equal(both[1:], drawn([2], slice(1, 2)))
    assert abs(float(both.std()) - 0.2) < 0.01


@pytest.mark.parametrize(
    ("policy", "tokens"),
    [
        (MemoryPolicy("none"), 0),
        (MemoryPolicy("uniform"), 8 * 64),
        (MemoryPolicy("uniform", count=2), 2 * 64),
        (MemoryPolicy("uniform", side=4, count=11), 8 * 16),
        (MemoryPolicy(), 2 * (64 + 16 + 9 + 1)),
        (MemoryPolicy(frames_per_level=1), 64 + 16 + 9 + 1 + 1),
        (MemoryPolicy(budget_tokens=100), 64 + 16 + 9 + 1 + 1),
    ],
    ids=["none", "full", "recent", "uniform", "golden", "golden one a level", "golden on a budget"],
)
def test_policies_cost_what_they_say(policy: MemoryPolicy, tokens: int) -> None:
    assert policy.plan(8, short_side=8).tokens == tokens


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "silver"}, "memory.kind is 'silver': choose one of none, uniform, golden"),
        ({"order": "size"}, "memory.order is 'size'"),
        ({"frames_per_level": 0}, "memory.frames_per_level is 0"),
        ({"budget_tokens": -1}, "memory.budget_tokens is -1"),
    ],
    ids=["kind", "order", "level", "budget"],
)
def test_policies_that_mean_nothing_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        MemoryPolicy(**settings)


def test_memories_are_compared_story_by_story() -> None:
    def outcome(*, identity: bool, setting: bool) -> Outcome:
        right = dict.fromkeys(IDENTITY_PARTS, identity) | dict.fromkeys(SETTING_PARTS, setting)
        return Outcome(right, 1, 1, 0.0, 1, 0.0, 1.0, 1.0, 1.0, True)

    good, bad = outcome(identity=True, setting=True), outcome(identity=False, setting=True)
    found = compare(
        {"golden": {8: [good] * 3 + [bad], 16: [good] * 4}, "uniform_retrieved": {8: [bad] * 4, 16: [good] * 4}, "mine": {8: [bad]}},
        confidence=0.95,
        seed=0,
    )
    assert [(row["memory"], row["against"]) for row in found] == [("golden", "uniform_retrieved")]
    assert found[0]["identity"] == pytest.approx(3 / 8)
    assert found[0]["identity_interval"][0] < 3 / 8 < found[0]["identity_interval"][1]
    assert (found[0]["set"], found[0]["set_interval"]) == (0.0, [0.0, 0.0])


def test_a_budget_below_one_frame_is_refused() -> None:
    with pytest.raises(UserError, match="holds not one frame"):
        MemoryPolicy(budget_tokens=10).plan(8, short_side=8)
    with pytest.raises(UserError, match="side is 9 but a frame has 8"):
        MemoryPolicy("uniform", side=9).plan(8, short_side=8)


class Painter:
    """A keyframe model that knows the answer: its velocity is exact for the pictures it is given by caption."""

    space = PixelSpace(8)
    text_tokens = 5

    def __init__(self, pictures: dict[tuple[int, ...], torch.Tensor]) -> None:
        self._pictures = pictures

    def encode_captions(self, captions):
        return CaptionEmbeddings(caption_indices([parse_caption(caption) for caption in captions]))

    def remember(self, frames):
        return []

    def sigmas(self, num_steps, num_tokens):
        return sampling_timesteps(num_steps)

    def velocity(self, frames, *, attention="extend", memory=None, guidance=None, negative=None):
        (target,) = [group for group in frames if not group.is_memory]
        known = torch.stack([torch.stack([self._pictures[tuple(row.tolist())] for row in rows]) for rows in target.captions.tokens])
        return [(target.latents - known) / target.timesteps[..., None, None, None].clamp(min=1e-3)]


def test_an_exact_model_draws_exactly_and_the_probe_says_so() -> None:
    returns = sample_returns(5, 4, seed=0, min_gap=2)
    known = {}
    for item in returns:
        (row,) = caption_indices([parse_caption(item.storyboard.shots[-1].caption)])
        known[tuple(row.tolist())] = draw_pictures([item.picture])[0]
    sampler = sampler_of(Painter(known), MemoryPolicy(), DrawingConfig(num_steps=3))  # type: ignore[arg-type]
    outcomes, frames = draw_returns(sampler, returns)
    shown = draw_pictures([item.picture for item in returns])
    exact = [index for index, item in enumerate(returns) if (frames[index] - shown[index]).abs().max() < 1e-4]
    assert len(exact) >= 4  # two stories may share a caption; the painter knows one picture for both
    assert all(outcomes[index].identity and outcomes[index].set and outcomes[index].residual < 1e-3 for index in exact)
    assert all(outcome.character_gap >= 2 for outcome in outcomes)


def test_without_a_memory_the_ceiling_is_chance(model: SmallMMDiT) -> None:
    returns = sample_returns(2, 3, seed=0)
    outcomes, _ = draw_returns(sampler_of(model, MemoryPolicy("none"), DrawingConfig(num_steps=1)), returns)
    for outcome in outcomes:
        assert (outcome.identity_ceiling, outcome.set_ceiling, outcome.colour_ceiling) == (1 / 384, 1 / 96, 1 / 6)
        assert not outcome.covered
    outcomes, _ = draw_returns(sampler_of(model, MemoryPolicy("uniform"), DrawingConfig(num_steps=1)), returns)
    assert all(outcome.covered and outcome.identity_ceiling == outcome.set_ceiling == 1 for outcome in outcomes)


def test_ceilings_fall_with_size_and_noise_and_are_nothing_without_a_view() -> None:
    returns = sample_returns(12, 8, seed=3)

    def share(side: int, noise: float) -> float:
        right = 0
        for item in returns:
            kept = dict.fromkeys(range(8), (side, side))
            right += read_identity(item, kept, patch=8, context_noise=noise) == item.picture.identity
        return right / len(returns)

    assert share(8, 0.1) == share(1, 0.0) == 1.0
    assert share(1, 0.6) < 0.7
    item: Return = returns[0]
    assert read_identity(item, {}, patch=8, context_noise=0.0) is None
    other = {index: (8, 8) for index, shot in enumerate(item.story.shots) if shot.name != item.shot.name}
    assert read_identity(item, other, patch=8, context_noise=0.0) is None
    assert read_setting(item, dict.fromkeys(range(8), (8, 8)), patch=8, context_noise=0.0) == item.picture.setting
