"""Stories of tiny cinema: characters, places and framing of every shot, and the looks of the story.

Looks are sampled per story, so that the look of "ada" follows only from earlier frames or from a description in a caption.
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
_PROP_FRACTION = 0.15


@dataclass(frozen=True)
class StoryShot:
    """One shot.

    Attributes:
        name: the character.
        place: the location.
        size, position: framing.
        prop: box that the character carries.
        action: action of the character.
    """

    name: str
    place: str
    size: str
    position: str
    prop: str = "none"
    action: str = "still"

    @property
    def tags(self) -> tuple[str, ...]:
        """Keys for retrieval: the character, then the place."""
        return (self.name, self.place)

    @property
    def caption(self) -> Caption:
        """The caption without descriptions."""
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
        """The scene of the keyframe of a shot of this story."""
        return Scene(self.characters[shot.name], self.places[shot.place], shot.size, shot.position, shot.prop)

    def captions(self, *, describe_first: bool) -> list[Caption]:
        """Captions of all shots; with `describe_first` the first caption of a character or place describes it."""
        seen: set[str] = set()
        captions = []
        for shot in self.shots:
            identity = None if shot.name in seen or not describe_first else self.characters[shot.name]
            setting = None if shot.place in seen or not describe_first else self.places[shot.place]
            captions.append(shot.caption.described(identity, setting))
            seen.update(shot.tags)
        return captions


def storyboard_of(story: Story, *, title: str, seed: int, described: bool) -> Storyboard:
    """The storyboard of a story.

    Args:
        story: the story.
        title: title of the storyboard.
        seed: seed of the storyboard.
        described: whether its tables hold the descriptions of characters and places, which `Storyboard.captions` appends
            at their first appearance; otherwise they are empty.
    """
    characters = {
        name: look_text(story.characters[name], None) if described else "" for name in sorted({shot.name for shot in story.shots})
    }
    places = {name: look_text(None, story.places[name]) if described else "" for name in sorted({shot.place for shot in story.shots})}
    shots = tuple(Shot(shot.caption.text, (shot.name,), shot.place) for shot in story.shots)
    return Storyboard(title, characters, places, shots, seed)


def sample_story(num_shots: int, *, generator: torch.Generator) -> Story:
    """A story of scenes: 2 to 4 shots at one place with 2 characters; consecutive scenes have different places.

    Raises:
        UserError: if `num_shots` is below 1.
    """
    if num_shots < 1:
        raise UserError(f"num_shots is {num_shots}: it must be 1 or more")
    names, places = _choose(NAMES, _CAST, generator), _choose(PLACES, _SCENERY, generator)
    characters = {name: Identity(*_sample_look(IDENTITY_VALUES, generator)) for name in names}
    scenery = {place: Setting(*_sample_look(SETTING_VALUES, generator)) for place in places}
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
    """Alternative next shots of a story: one reappearing character at one earlier place, in several framings.

    Args:
        story: the past.
        count: number of alternatives.
        gap_distribution: `uniform` samples character and place independently of their last appearance; `recent` in inverse
            proportion to the number of shots since.
        generator: the random stream.

    Raises:
        UserError: if `gap_distribution` is unknown.
    """
    if gap_distribution not in GAP_DISTRIBUTIONS:
        raise UserError(f"gap_distribution is '{gap_distribution}': choose one of {', '.join(GAP_DISTRIBUTIONS)}")
    name = _reappearing([shot.name for shot in story.shots], gap_distribution, generator)
    place = _reappearing([shot.place for shot in story.shots], gap_distribution, generator)
    carried = next(shot.prop for shot in reversed(story.shots) if shot.name == name)
    return [_shot(name, place, carried, generator) for _ in range(count)]


def gap_of(shots: Sequence[StoryShot], tag: str) -> int | None:
    """Number of shots since the last one with a tag, 1 for the newest shot; None if there is none."""
    return next((gap for gap, shot in enumerate(reversed(shots), start=1) if tag in shot.tags), None)


def _reappearing(tags: Sequence[str], gap_distribution: str, generator: torch.Generator) -> str:
    # Later occurrences overwrite earlier ones: the gap to the last appearance.
    gaps = {tag: len(tags) - index for index, tag in enumerate(tags)}
    weights = torch.tensor([1.0 if gap_distribution == "uniform" else 1 / gap for gap in gaps.values()])
    return list(gaps)[int(torch.multinomial(weights, 1, generator=generator))]


def _shot(name: str, place: str, prop: str, generator: torch.Generator) -> StoryShot:
    size, position = _one(tuple(SIZES), generator), _one(tuple(POSITIONS), generator)
    return StoryShot(name, place, size, position, prop, _one(ACTIONS, generator))


def _prop(generator: torch.Generator) -> str:
    return _one(PROPS[1:], generator) if float(torch.rand((), generator=generator)) < _PROP_FRACTION else "none"


def _sample_look(values: Sequence[Sequence[str]], generator: torch.Generator) -> list[str]:
    return [_one(options, generator) for options in values]


def _choose(options: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    return [options[index] for index in torch.randperm(len(options), generator=generator)[:count].tolist()]


def _one(options: Sequence[str], generator: torch.Generator) -> str:
    return options[_integer(len(options), generator)]


def _integer(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
