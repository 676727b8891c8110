"""Storyboards: the shots, characters and places of a film, stored as a JSON file that the user can edit before sampling."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.files import read_json, write_atomically

VERSION = 1
DEFAULT_SECONDS = 1.5
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class Shot:
    """One shot.

    Attributes:
        caption: content of the frame, in the vocabulary of the keyframe model; names characters without describing them.
        characters: names of the characters in the shot, keys of `Storyboard.characters`.
        place: location, a key of `Storyboard.places`; None for an unspecified one.
        seconds: duration.
        seed: seed of its noise; None derives one from the storyboard's seed.
    """

    caption: str
    characters: tuple[str, ...] = ()
    place: str | None = None
    seconds: float = DEFAULT_SECONDS
    seed: int | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """Keys for retrieval: the characters, then the place."""
        return (*self.characters, *(() if self.place is None else (self.place,)))


@dataclass(frozen=True)
class Storyboard:
    """Characters, places and shots of a film.

    Attributes:
        title: of the film.
        characters: descriptions by name, appended to the caption of the first shot of the character; may be empty.
        places: descriptions by place, appended likewise.
        shots: in order.
        seed: the seeds of shots derive from it.

    Raises:
        UserError: if there is no shot, a shot has no caption, a character or place that is missing from the tables, or a
            duration out of range.
    """

    title: str = "untitled"
    characters: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    shots: tuple[Shot, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots:
            raise UserError("the storyboard has no shot: give at least one")
        for number, shot in enumerate(self.shots, start=1):
            if not shot.caption.strip():
                raise UserError(f"shot {number} has no caption: add a caption that describes the frame")
            if not 0 < shot.seconds <= MAX_SECONDS:
                raise UserError(f"shot {number} has a duration of {shot.seconds} seconds: it must be above 0 and at most {MAX_SECONDS:g}")
            unknown = [name for name in shot.characters if name not in self.characters]
            if unknown:
                raise UserError(
                    f"shot {number} has the character '{unknown[0]}', which is not in the storyboard's characters: "
                    f"add '{unknown[0]}' to them ({', '.join(self.characters) or 'none'})"
                )
            if shot.place is not None and shot.place not in self.places:
                raise UserError(
                    f"shot {number} is at the place '{shot.place}', which is not in the storyboard's places: "
                    f"add '{shot.place}' to them ({', '.join(self.places) or 'none'})"
                )

    def captions(self) -> list[str]:
        """Captions of all shots; the description of a character or place is appended at its first appearance."""
        introduced: set[str] = set()
        found = []
        for shot in self.shots:
            found.append(self.described(shot, known=introduced))
            introduced.update(shot.tags)
        return found

    def described(self, shot: Shot, *, known: Collection[str] = ()) -> str:
        """The caption of a shot with the descriptions of its characters and place, except those in `known`."""
        texts = [
            f"{tag}: {table[tag]}"
            for tags, table in ((shot.characters, self.characters), ((shot.place,) if shot.place else (), self.places))
            for tag in tags
            if tag not in known and table[tag].strip()
        ]
        return ". ".join([shot.caption, *texts])

    def write(self, path: Path) -> None:
        """Writes the storyboard as JSON, atomically."""
        tree = {"version": VERSION, **asdict(self), "shots": [asdict(shot) for shot in self.shots]}
        write_atomically(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def read_storyboard(path: Path) -> Storyboard:
    """Reads a storyboard.

    Raises:
        UserError: if the file cannot be read, has another version, or holds an invalid value.
    """
    tree = read_json(path, "give the storyboard.json of a film")
    try:
        return _storyboard(tree)
    except UserError as error:
        raise UserError(f"storyboard {path}: {error}") from error


def _storyboard(tree: Any) -> Storyboard:
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        raise UserError(f"its version is not {VERSION}: write it with 'make generate-cinema' and edit that")
    values = _checked({key: value for key, value in tree.items() if key != "version"}, Storyboard, "the storyboard")
    title, seed = values.get("title", ""), values.get("seed", 0)
    if not isinstance(title, str) or isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"its title is {title!r} and its seed {seed!r}: give a string and an integer")
    shots = values.get("shots", [])
    if not isinstance(shots, list):
        raise UserError("its shots are not a list: give a list of shots")
    values["shots"] = tuple(_shot(shot, number) for number, shot in enumerate(shots, start=1))
    for key in ("characters", "places"):
        table = values.get(key, {})
        if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
            raise UserError(f"its {key} must map names to descriptions (strings, which may be empty)")
    return Storyboard(**values)


def _shot(tree: Any, number: int) -> Shot:
    values = _checked(tree, Shot, f"shot {number}")
    if "caption" not in values or not isinstance(values["caption"], str):
        raise UserError(f"shot {number} has no caption: add a caption that describes the frame")
    characters = values.get("characters", [])
    if not isinstance(characters, list) or not all(isinstance(name, str) for name in characters):
        raise UserError(f"shot {number}: its characters must be a list of names")
    values["characters"] = tuple(characters)
    if not isinstance(values.get("place"), str | None):
        raise UserError(f"shot {number} is at {values['place']}: its place must be one name, or null")
    seconds, seed = values.get("seconds", DEFAULT_SECONDS), values.get("seed")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UserError(f"shot {number} has a duration of '{seconds}' seconds: give a number")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise UserError(f"shot {number} has the seed '{seed}': give an integer, or null")
    return Shot(**values)


def _checked(tree: Any, kind: type, what: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{what} is not a JSON object")
    known: Sequence[str] = [item.name for item in fields(kind)]
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise UserError(f"{what} has '{unknown[0]}', which is not a known key: the keys are {', '.join(known)}")
    return dict(tree)
