"""The planner of tiny cinema: a grammar that maps plain text to a storyboard, without a model or network access.

Every beat of the storyline gives one shot per named character, or two shots if its only character finds a box.
"""

import re
import textwrap
from collections.abc import Sequence

import torch

from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.toy.captions import NAMES, PLACES, Caption, look_text
from captain_cinema.toy.rendering import BODY_COLOURS, IDENTITY_VALUES, POSITIONS, SETTING_VALUES, SIZES, Identity, Setting
from triptych.errors import UserError
from triptych.seeding import generator

_ACTIONS = {
    "walk right": ("leave", "leaves", "exits", "goes", "departs", "runs"),
    "walk left": ("returns", "return", "enters", "arrives", "comes", "back"),
    "jump": ("jumps", "jump", "dances", "celebrates", "laughs", "cheers"),
    "approach": ("approaches", "looks", "speaks", "says", "sees", "discovers"),
}
_FINDS = ("finds", "takes", "holds", "carries", "picks", "brings", "gets")
_DROPS = ("drops", "loses", "hides", "gives")


def plan_storyboard(storyline: str, *, seed: int = 0) -> Storyboard:
    """The storyboard of a storyline, whose beats are separated by semicolons, full stops or line ends.

    A beat names at least one character. A place ("in the attic") holds until another is named. A character that finds "the red
    box" carries it until it is dropped. Looks are sampled with `seed`.

    Raises:
        UserError: if a beat names no character, or a place or box that tiny cinema does not have.

    Example:
        >>> board = plan_storyboard("ada meets bo in the kitchen; bo leaves")
        >>> [shot.characters for shot in board.shots]
        [('ada',), ('bo',), ('bo',)]
    """
    beats = [beat.strip() for beat in re.split(r"[;.\n]+", storyline) if beat.strip()]
    if not beats:
        raise UserError("the storyline is empty: give beats, separated by semicolons")
    stream = generator(seed, "storyboard")
    # Places are parsed once per beat; the first named one also holds for the beats before it.
    spots = [_place_of(beat, number) for number, beat in enumerate(beats, start=1)]
    place = next((spot for spot in spots if spot is not None), None) or PLACES[int(torch.randint(len(PLACES), (), generator=stream))]
    carried: dict[str, str] = {}
    cast: list[str] = []
    scenery: list[str] = []
    shots: list[Shot] = []
    for number, (beat, spot) in enumerate(zip(beats, spots, strict=True), start=1):
        words = re.findall(r"[a-z]+", beat.lower())
        names = list(dict.fromkeys(word for word in words if word in NAMES))
        if not names:
            raise UserError(f"beat {number} of the storyline ('{beat}') names no character: name one of {', '.join(NAMES)}")
        place = spot or place
        prop = _prop_of(beat, number)
        if prop is not None:
            carried[names[0]] = prop
        elif any(word in words for word in _DROPS):
            carried.pop(names[0], None)
        action = next((action for action, verbs in _ACTIONS.items() if any(verb in words for verb in verbs)), "still")
        cast += [name for name in names if name not in cast]
        scenery += [place] if place not in scenery else []
        # A find has two shots: wide without the box, then close with it.
        views = [(names[0], "wide"), (names[0], "close")] if prop is not None and len(names) == 1 else [(name, "") for name in names]
        for index, (name, size) in enumerate(views):
            held = "none" if prop is not None and size == "wide" else carried.get(name, "none")
            framing = size or tuple(SIZES)[(len(shots)) % len(SIZES)]
            side = tuple(POSITIONS)[1 if len(views) == 1 or size else 2 * index % 4]
            happens = action if index == len(views) - 1 or prop is None else "still"
            caption = Caption(name, place, framing, side, held, happens)
            shots.append(Shot(caption.text, (name,), place))
    return Storyboard(
        title=textwrap.shorten(storyline, 80, placeholder=" ..."),
        characters={
            name: look_text(Identity(*look), None)
            for name, look in zip(cast, _sample_looks(IDENTITY_VALUES, len(cast), stream), strict=True)
        },
        places={
            spot: look_text(None, Setting(*look))
            for spot, look in zip(scenery, _sample_looks(SETTING_VALUES, len(scenery), stream), strict=True)
        },
        shots=tuple(shots),
        seed=seed,
    )


def _place_of(beat: str, number: int) -> str | None:
    words = re.findall(r"[a-z]+", beat.lower())
    known = next((word for word in words if word in PLACES), None)
    phrase = re.search(r"\b(?:in|into|at|to|inside)\s+(?:the|a|an)\s+([a-z]+)", beat.lower())
    if known is None and phrase is not None:
        raise UserError(
            f"beat {number} of the storyline ('{beat}') is at '{phrase.group(1)}', which is not a place of tiny cinema: "
            f"choose one of {', '.join(PLACES)}"
        )
    return known


def _prop_of(beat: str, number: int) -> str | None:
    match = re.search(rf"\b(?:{'|'.join(_FINDS)})\b.*?\b(?:the|a|an|his|her)\s+([a-z]+)\s+box", beat.lower())
    if match is None:
        return None
    if match.group(1) not in BODY_COLOURS:
        raise UserError(
            f"beat {number} of the storyline ('{beat}') has a {match.group(1)} box, which tiny cinema does not have: "
            f"choose one of {', '.join(BODY_COLOURS)}"
        )
    return match.group(1)


def _sample_looks(values: Sequence[Sequence[str]], count: int, stream: torch.Generator) -> list[tuple[str, ...]]:
    """`count` looks; no two share a value of any detail until the values are used up."""
    orders = [torch.randperm(len(options), generator=stream).tolist() for options in values]
    return [tuple(options[order[index % len(order)]] for options, order in zip(values, orders, strict=True)) for index in range(count)]


class TemplatePlanner:
    """The `Planner` of tiny cinema; see `plan_storyboard`."""

    def __call__(self, storyline: str, *, seed: int) -> Storyboard:
        """The storyboard of a storyline."""
        return plan_storyboard(storyline, seed=seed)
