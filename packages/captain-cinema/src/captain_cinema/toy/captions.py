"""Captions of tiny cinema: their fields, text form, parser and indices.

A caption names a character and a place without describing them; their descriptions are given at most once, at their first
appearance.
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
    """The fields of a caption; None for an unset field.

    Attributes:
        name: one of `NAMES`.
        place: one of `PLACES`.
        size: one of `SIZES`.
        position: one of `POSITIONS`.
        prop: one of `PROPS`.
        action: one of `ACTIONS`.
        colour, shape, hat, badge: description of the character.
        wall, ground, decoration: description of the place.
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
        """The caption as text, the inverse of `parse_caption`."""
        words = {
            field.name: _WORDS[field.name][getattr(self, field.name)] for field in fields(self) if getattr(self, field.name) is not None
        }
        look = [words[key] for key in ("colour", "shape", "hat", "badge") if key in words]
        scenery = [words[key] for key in ("wall", "ground", "decoration") if key in words]
        parts = [words["name"]] if "name" in words else []
        parts += [f"({', '.join(look)})"] if look else []
        parts += [f"in the {words['place']}"] if "place" in words else []
        parts += [f"({', '.join(scenery)})"] if scenery else []
        tail = [words[key] for key in ("size", "position", "prop", "action") if words.get(key)]
        return ", ".join([" ".join(parts), *tail])

    def described(self, identity: Identity | None, setting: Setting | None) -> "Caption":
        """The caption with a description of the character, the place, or both."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= vars(identity) if identity is not None else {}
        values |= vars(setting) if setting is not None else {}
        return Caption(**values)


def look_text(identity: Identity | None, setting: Setting | None) -> str:
    """The description of a character or a place as caption text."""
    return Caption().described(identity, setting).text.strip("(), ")


def _plain(values: Sequence[str], pattern: str = "{}", **special: str) -> dict[str, str]:
    return {value: special.get(value.replace(" ", "_"), pattern.format(value)) for value in values}


# Text of every value. Prop "none" and action "still" have no text.
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

# Values of fields that a text leaves unset.
_DEFAULTS = {"prop": "none", "action": "still"}

# Props and actions first: "red box" must not set the colour, and "walks left" not the position.
_PHRASES = [
    (phrase, field, value)
    for field, words in sorted(_WORDS.items(), key=lambda item: item[0] not in ("prop", "action"))
    for value, phrase in words.items()
    if phrase
]
_IGNORED_WORDS = {"a", "an", "and", "at", "in", "of", "on", "shot", "still", "the", "with", "to"}


# Cached: training, sampling and verification parse the same captions again and again.
@lru_cache(maxsize=100_000)
def parse_caption(text: str) -> Caption:
    """The fields of a caption text.

    Raises:
        UserError: if a word is not in the vocabulary, or a field has two values.

    Example:
        >>> parse_caption("ada in the attic, wide shot, on the left, with the red box").prop
        'red'
    """
    # Each phrase that occurs is removed; what remains may only consist of ignored words.
    rest = " ".join(re.findall(r"\w+", text.lower()))
    values: dict[str, str] = {}
    for phrase, field, value in _PHRASES:
        pattern = rf"\b{phrase}\b"
        # A framing or set may be given as bare values: "wide, left".
        short = rf"\b{value}\b" if field in ("size", "position", "wall", "ground") else pattern
        for candidate in (pattern, short):
            if re.search(candidate, rest):
                if values.get(field, value) != value:
                    raise UserError(f"caption '{text}' has both {values[field]} and {value} as {field}: keep one")
                values[field] = value
                rest = re.sub(candidate, " ", rest)
    unknown = [word for word in rest.split() if word not in _IGNORED_WORDS]
    if unknown:
        raise UserError(f"caption '{text}' has '{unknown[0]}', which is not in the vocabulary of tiny cinema: {vocabulary()}")
    return Caption(**values)


def vocabulary() -> str:
    """All values of all caption fields, in one line."""
    return "; ".join(f"{field} {', '.join(words)}" for field, words in _WORDS.items())


def caption_indices(captions: Sequence[Caption]) -> Int[Tensor, "captions fields"]:
    """Field values as int64 indices, 0 for unset; columns in the order of `CAPTION_FIELDS`, sizes in `VOCABULARY_SIZES`."""
    rows = [[_index(caption, field) for field in CAPTION_FIELDS] for caption in captions]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, len(CAPTION_FIELDS))


def _index(caption: Caption, field: str) -> int:
    value = getattr(caption, field) or _DEFAULTS.get(field)
    return 0 if value is None else 1 + list(_WORDS[field]).index(value)
