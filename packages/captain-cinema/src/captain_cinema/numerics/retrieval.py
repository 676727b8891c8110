"""Which past frames a shot remembers: an order by age or by shared tags, then coverage of everything the shot names.

An order is a list of indices into the past (0 is the oldest frame), most important first; ties go to the newer frame.

Source: Captain Cinema (arXiv 2507.18634), section 3.3; cover is ours.
"""

from collections.abc import Collection, Sequence

import torch

from triptych.errors import UserError


def by_time(num_past: int) -> list[int]:
    """Newest first.

    Example:
        >>> by_time(3)
        [2, 1, 0]
    """
    return list(range(num_past))[::-1]


def by_tags(past: Sequence[Collection[str]], wanted: Sequence[str]) -> list[int]:
    """Frames by the number of wanted names and places that they show; among equals, those with earlier ones come first.

    Args:
        past: tags of every past frame, oldest first.
        wanted: tags of the next shot, most important first: a face before a place.
    """
    tags = list(dict.fromkeys(wanted))
    weights = {tag: 2.0 ** len(tags) + 2.0 ** (len(tags) - 1 - place) for place, tag in enumerate(tags)}
    return _ranked([float(sum(weights.get(tag, 0.0) for tag in set(shown))) for shown in past])


def cover(order: Sequence[int], past: Sequence[Collection[str]], wanted: Collection[str]) -> list[int]:
    """The order, changed so that everything wanted is shown once before anything is shown twice.

    Greedy maximum coverage: of the frames left, the one that shows most of what is still missing comes next, earlier
    ranks first; when nothing can be added, the search for a second view begins. Frames that show nothing wanted
    keep their order at the end.

    Args:
        order: indices into the past, most important first.
        past: tags of every past frame.
        wanted: tags of the next shot.

    Raises:
        UserError: if the order names a frame twice, or one that is not there.
    """
    if len(set(order)) != len(order) or not set(order) <= set(range(len(past))):
        raise UserError(f"an order {list(order)} of {len(past)} past frames: every index must be there and stand once")
    aim = set(wanted)
    left = [index for index in order if aim & set(past[index])]
    others = [index for index in order if not aim & set(past[index])]
    found: list[int] = []
    missing = set(aim)
    while left:
        best = max(left, key=lambda index: len(missing & set(past[index])))
        if not missing & set(past[best]):
            missing = set(aim)
            continue
        left.remove(best)
        found.append(best)
        missing -= set(past[best])
    return found + others


def is_covered(order: Sequence[int], past: Sequence[Collection[str]], wanted: Collection[str], count: int) -> bool:
    """Whether everything wanted that the past shows at all appears among the first `count` frames: coverage@k."""
    shown = {tag for index in order[:count] for tag in past[index]}
    possible = {tag for tags in past for tag in tags}
    return set(wanted) & possible <= shown


def _ranked(scores: Sequence[float]) -> list[int]:
    values = torch.tensor(scores, dtype=torch.float64)
    # A stable sort of the past from new to old: among equals the newer frame comes first.
    newest_first = torch.arange(len(scores) - 1, -1, -1)
    return newest_first[values[newest_first].argsort(descending=True, stable=True)].tolist()
