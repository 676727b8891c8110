"""Retrieval of past frames: orders by age or shared tags, and coverage of the tags of the next shot.

An order is a list of indices into the past (0 is the oldest frame), most important first; newer frames win ties.

Source: Captain Cinema (arXiv 2507.18634), section 3.3; `cover` is not in the paper.
"""

from collections.abc import Collection, Sequence

import torch

from triptych.errors import UserError


def by_time(num_past: int) -> list[int]:
    """The order from newest to oldest.

    Example:
        >>> by_time(3)
        [2, 1, 0]
    """
    return list(range(num_past))[::-1]


def by_tags(past: Sequence[Collection[str]], wanted: Sequence[str]) -> list[int]:
    """The order by number of shared tags; at equal numbers by the position of those tags in `wanted`.

    Args:
        past: tags of every past frame, oldest first.
        wanted: tags of the next shot, most important first: characters before the place.
    """
    tags = list(dict.fromkeys(wanted))
    # Lexicographic in one number: a tag counts 2^n, more than all tie-breakers 2^(n - 1 - index) together.
    weights = {tag: 2.0 ** len(tags) + 2.0 ** (len(tags) - 1 - index) for index, tag in enumerate(tags)}
    return _ranked([float(sum(weights.get(tag, 0.0) for tag in set(shown))) for shown in past])


def cover(order: Sequence[int], past: Sequence[Collection[str]], wanted: Collection[str]) -> list[int]:
    """The order, rearranged so that every wanted tag occurs once before any occurs twice.

    Greedy maximum coverage: the next frame is the remaining one with the most missing tags, earlier ranks first; once no
    remaining frame has a missing tag, all wanted tags count as missing again. Frames without a wanted tag follow at the
    end, in order.

    Args:
        order: indices into the past, most important first.
        past: tags of every past frame.
        wanted: tags of the next shot.

    Raises:
        UserError: if an index of the order is repeated or out of range.
    """
    if len(set(order)) != len(order) or not set(order) <= set(range(len(past))):
        raise UserError(f"the order is {list(order)} for {len(past)} past frames: give indices below {len(past)}, each at most once")
    tags = set(wanted)
    left = [index for index in order if tags & set(past[index])]
    others = [index for index in order if not tags & set(past[index])]
    found: list[int] = []
    missing = set(tags)
    while left:
        best = max(left, key=lambda index: len(missing & set(past[index])))
        if not missing & set(past[best]):
            missing = set(tags)
            continue
        left.remove(best)
        found.append(best)
        missing -= set(past[best])
    return found + others


def is_covered(order: Sequence[int], past: Sequence[Collection[str]], wanted: Collection[str], count: int) -> bool:
    """Coverage@k: whether every wanted tag that occurs in the past occurs among its first `count` frames of the order."""
    shown = {tag for index in order[:count] for tag in past[index]}
    possible = {tag for tags in past for tag in tags}
    return set(wanted) & possible <= shown


def _ranked(scores: Sequence[float]) -> list[int]:
    values = torch.tensor(scores, dtype=torch.float64)
    # A stable sort from newest to oldest, so that newer frames win ties.
    newest_first = torch.arange(len(scores) - 1, -1, -1)
    return newest_first[values[newest_first].argsort(descending=True, stable=True)].tolist()
