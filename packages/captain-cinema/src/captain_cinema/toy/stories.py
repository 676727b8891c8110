"""Stories of tiny cinema: who is where in every shot, and what everybody looks like in this story alone.

Looks are dealt anew to names and places for every story, so that nothing but the frames seen so far (or a description
in a caption) can tell how "ada" looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.toy.captions import NAMES, PLACES, Caption, look_text
from captain_cinema.toy.rendering import ACTIONS, IDENTITY_VALUES, POSITIONS, PROPS, SETTING_VALUES, SIZES, Identity, Scene, Setting
from triptych.errors import UserError

GAP_DISTRIBUTIONS = ("uniform", "recent")

_CAST, _SCENERY = 4, 3
_PROP_SHARE = 0.15


@dataclass(frozen=True)
class StoryShot:
    """One shot.

    Attributes:
        name: the character.
        place: where.
        size, position: framing.
        prop: what the character carries.
        action: what happens.
    """

    name: str
    place: str
    size: str
    position: str
    prop: str = "none"
    action: str = "still"

    @property
    def tags(self) -> tuple[str, ...]:
        """What another shot may have in common with this one: its character, then its place."""
        return (self.name, self.place)

    @property
    def caption(self) -> Caption:
        """The caption that names and does not describe."""
        return Caption(self.name, self.place, self.size, self.position, self.prop, self.action)


@dataclass(frozen=True)
class Story:
    """A story.

    Attributes:
        characters: looks by name.
        places: looks by place.
        shots: in order.
    """

    characters: dict[str, Identity]
    places: dict[str, Setting]
    shots: tuple[StoryShot, ...]

    def scene(self, shot: StoryShot) -> Scene:
        """What the keyframe of a shot of this story shows."""
        return Scene(self.characters[shot.name], self.places[shot.place], shot.size, shot.position, shot.prop)

    def captions(self, *, describe_first: bool) -> list[Caption]:
        """Captions of all shots; with `describe_first` everybody and every place is described where it first appears."""
        seen: set[str] = set()
        captions = []
        for shot in self.shots:
            identity = None if shot.name in seen or not describe_first else self.characters[shot.name]
            setting = None if shot.place in seen or not describe_first else self.places[shot.place]
            captions.append(shot.caption.described(identity, setting))
            seen.update(shot.tags)
        return captions


def storyboard_of(story: Story, *, title: str, seed: int, described: bool) -> Storyboard:
    """A story as captions alone.

    Args:
        story: with all its shots.
        title: of the storyboard.
        seed: of the storyboard.
        described: whether its tables say how everybody and every place looks, which joins the caption where they first
            appear.
    """
    people = {name: look_text(story.characters[name], None) if described else "" for name in sorted({shot.name for shot in story.shots})}
    places = {name: look_text(None, story.places[name]) if described else "" for name in sorted({shot.place for shot in story.shots})}
    shots = tuple(Shot(shot.caption.text, (shot.name,), shot.place) for shot in story.shots)
    return Storyboard(title, people, places, shots, seed)


def sample_story(num_shots: int, *, generator: torch.Generator) -> Story:
    """A story of scenes: 2 to 4 shots at one place with a cast of 2; the place changes at every scene.

    Raises:
        UserError: if there is no shot.
    """
    if num_shots < 1:
        raise UserError(f"a story of {num_shots} shots: it needs 1 or more")
    names, places = _choose(NAMES, _CAST, generator), _choose(PLACES, _SCENERY, generator)
    characters = {name: Identity(*_deal(IDENTITY_VALUES, generator)) for name in names}
    scenery = {place: Setting(*_deal(SETTING_VALUES, generator)) for place in places}
    props = {name: _prop(generator) for name in names}
    shots: list[StoryShot] = []
    place = ""
    while len(shots) < num_shots:
        place = _one([other for other in places if other != place], generator)
        cast = _choose(names, 2, generator)
        for index in range(2 + _integer(3, generator)):
            name = cast[index % 2] if index < 2 else _one(cast, generator)
            shots.append(_shot(name, place, props[name], generator))
    return Story(characters, scenery, tuple(shots[:num_shots]))


def next_shots(story: Story, count: int, *, gap_distribution: str = "uniform", generator: torch.Generator) -> list[StoryShot]:
    """Alternative next shots of a story: one character returns to one place, in several framings.

    Args:
        story: the past.
        count: alternatives.
        gap_distribution: `uniform` draws character and place with equal chances, however long ago they were last shown;
            `recent` in inverse proportion to that gap.
        generator: the random stream.

    Raises:
        UserError: if the law is unknown.
    """
    if gap_distribution not in GAP_DISTRIBUTIONS:
        raise UserError(f"gap_distribution is '{gap_distribution}': choose one of {', '.join(GAP_DISTRIBUTIONS)}")
    name = _returning([shot.name for shot in story.shots], gap_distribution, generator)
    place = _returning([shot.place for shot in story.shots], gap_distribution, generator)
    carried = next(shot.prop for shot in reversed(story.shots) if shot.name == name)
    return [_shot(name, place, carried, generator) for _ in range(count)]


def gap_of(shots: Sequence[StoryShot], tag: str) -> int | None:
    """Shots since a name or place was last shown, 1 for the newest; None where it never was."""
    return next((gap for gap, shot in enumerate(reversed(shots), start=1) if tag in shot.tags), None)


def _returning(shown: Sequence[str], gap_distribution: str, generator: torch.Generator) -> str:
    gaps = {tag: len(shown) - index for index, tag in enumerate(shown)}
    weights = torch.tensor([1.0 if gap_distribution == "uniform" else 1 / gap for gap in gaps.values()])
    return list(gaps)[int(torch.multinomial(weights, 1, generator=generator))]


def _shot(name: str, place: str, prop: str, generator: torch.Generator) -> StoryShot:
    size, position = _one(tuple(SIZES), generator), _one(tuple(POSITIONS), generator)
    return StoryShot(name, place, size, position, prop, _one(ACTIONS, generator))


def _prop(generator: torch.Generator) -> str:
    return _one(PROPS[1:], generator) if float(torch.rand((), generator=generator)) < _PROP_SHARE else "none"


def _deal(values: Sequence[Sequence[str]], generator: torch.Generator) -> list[str]:
    return [_one(options, generator) for options in values]


def _choose(options: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    return [options[index] for index in torch.randperm(len(options), generator=generator)[:count].tolist()]


def _one(options: Sequence[str], generator: torch.Generator) -> str:
    return options[_integer(len(options), generator)]


def _integer(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
