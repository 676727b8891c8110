"""Captions of tiny cinema: what they say, how they read, and how they are read back.

A caption names a character and a place without describing them; a description of how they look is given at most once,
where they first appear.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from captain_cinema.toy.rendering import (
    ACTIONS,
    BADGES,
    BODY_COLOURS,
    BODY_SHAPES,
    DECORATIONS,
    GROUND_COLOURS,
    HATS,
    POSITIONS,
    PROPS,
    SIZES,
    WALL_COLOURS,
    Identity,
    Setting,
)
from triptych.errors import UserError

NAMES = ("ada", "bo", "cleo", "dan", "eve", "finn", "gus", "hana")
PLACES = ("kitchen", "attic", "garden", "cellar", "station", "library")


@dataclass(frozen=True)
class Caption:
    """What a caption says; None is left unsaid.

    Attributes:
        name: one of `NAMES`.
        place: one of `PLACES`.
        size: one of `SIZES`.
        position: one of `POSITIONS`.
        prop: one of `PROPS`.
        action: one of `ACTIONS`.
        colour, shape, hat, badge: of the character, where it is described.
        wall, ground, decoration: of the place, where it is described.
    """

    name: str | None = None
    place: str | None = None
    size: str | None = None
    position: str | None = None
    prop: str | None = None
    action: str | None = None
    colour: str | None = None
    shape: str | None = None
    hat: str | None = None
    badge: str | None = None
    wall: str | None = None
    ground: str | None = None
    decoration: str | None = None

    @property
    def text(self) -> str:
        """The caption in words, which `parse_caption` reads back."""
        words = {
            field.name: _WORDS[field.name][getattr(self, field.name)] for field in fields(self) if getattr(self, field.name) is not None
        }
        person = [words[key] for key in ("colour", "shape", "hat", "badge") if key in words]
        scenery = [words[key] for key in ("wall", "ground", "decoration") if key in words]
        parts = [words["name"]] if "name" in words else []
        parts += [f"({', '.join(person)})"] if person else []
        parts += [f"in the {words['place']}"] if "place" in words else []
        parts += [f"({', '.join(scenery)})"] if scenery else []
        tail = [words[key] for key in ("size", "position", "prop", "action") if words.get(key)]
        return ", ".join([" ".join(parts), *tail])

    def described(self, identity: Identity | None, setting: Setting | None) -> "Caption":
        """The caption with a description of the character, the place, or both."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said |= vars(identity) if identity is not None else {}
        said |= vars(setting) if setting is not None else {}
        return Caption(**said)


def look_text(identity: Identity | None, setting: Setting | None) -> str:
    """How a character or a place looks, in the words of captions."""
    return Caption().described(identity, setting).text.strip("(), ")


def _plain(values: Sequence[str], pattern: str = "{}", **special: str) -> dict[str, str]:
    return {value: special.get(value.replace(" ", "_"), pattern.format(value)) for value in values}


# How every value is written. "none" of a prop and "still" go without saying; nothing else does.
_WORDS: Mapping[str, Mapping[str, str]] = {
    "name": _plain(NAMES),
    "place": _plain(PLACES),
    "size": _plain(tuple(SIZES), "{} shot"),
    "position": _plain(tuple(POSITIONS), "on the {}", centre="in the centre"),
    "prop": _plain(PROPS, "with the {} box", none=""),
    "action": _plain(ACTIONS, still="", walk_left="walks left", walk_right="walks right", jump="jumps", approach="approaches"),
    "colour": _plain(tuple(BODY_COLOURS)),
    "shape": _plain(BODY_SHAPES),
    "hat": _plain(HATS, none="bareheaded"),
    "badge": _plain(BADGES),
    "wall": _plain(tuple(WALL_COLOURS), "{} walls"),
    "ground": _plain(tuple(GROUND_COLOURS), "{} ground"),
    "decoration": _plain(DECORATIONS, none="undecorated"),
}
CAPTION_FIELDS = tuple(_WORDS)
VOCABULARY_SIZES = tuple(1 + len(words) for words in _WORDS.values())

# What a caption means by silence: these values are written as nothing.
_WITHOUT_SAYING = {"prop": "none", "action": "still"}

# Phrases of several words first, so that the red box makes nobody red and who walks left stands where she stood.
_PHRASES = [
    (phrase, field, value)
    for field, words in sorted(_WORDS.items(), key=lambda item: item[0] not in ("prop", "action"))
    for value, phrase in words.items()
    if phrase
]
_SILENT_WORDS = {"a", "an", "and", "at", "in", "of", "on", "shot", "still", "the", "with", "to"}


@lru_cache(maxsize=100_000)
def parse_caption(text: str) -> Caption:
    """Reads a caption back.

    Raises:
        UserError: at the first word that tiny cinema does not know, and where two things are said of one field.

    Example:
        >>> parse_caption("ada in the attic, wide shot, on the left, with the red box").prop
        'red'
    """
    left = " ".join(re.findall(r"\w+", text.lower()))
    said: dict[str, str] = {}
    for phrase, field, value in _PHRASES:
        pattern = rf"\b{phrase}\b"
        # A framing may be named without its little words: "wide, left".
        short = rf"\b{value}\b" if field in ("size", "position", "wall", "ground") else pattern
        for candidate in (pattern, short):
            if re.search(candidate, left):
                if said.get(field, value) != value:
                    raise UserError(f"caption '{text}' says both {said[field]} and {value} for the {field}: keep one")
                said[field] = value
                left = re.sub(candidate, " ", left)
    unknown = [word for word in left.split() if word not in _SILENT_WORDS]
    if unknown:
        raise UserError(f"caption '{text}' says '{unknown[0]}', which tiny cinema does not know: {vocabulary()}")
    return Caption(**said)


def vocabulary() -> str:
    """What captions may say, in one line."""
    return "; ".join(f"{field} {', '.join(words)}" for field, words in _WORDS.items())


def caption_indices(captions: Sequence[Caption]) -> Int[Tensor, "captions fields"]:
    """What captions say as indices, 0 for unsaid; columns as in `CAPTION_FIELDS`, sizes as in `VOCABULARY_SIZES`, int64."""
    rows = [[_index(caption, field) for field in CAPTION_FIELDS] for caption in captions]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, len(CAPTION_FIELDS))


def _index(caption: Caption, field: str) -> int:
    value = getattr(caption, field) or _WITHOUT_SAYING.get(field)
    return 0 if value is None else 1 + list(_WORDS[field]).index(value)
