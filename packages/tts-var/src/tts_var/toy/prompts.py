"""Prompts of the small world: groups of objects with counts, colours and a relation; grammar, sampling, near misses.

The six categories are those of GenEval (arXiv 2310.11513): single object, two objects, counting, colours, position
and attribute binding. All other prompts of the grammar are compositions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from triptych.errors import UserError
from triptych.seeding import derive_seed

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
RELATIONS = ("left of", "right of", "above", "below")
CATEGORIES = ("single_object", "two_objects", "counting", "colours", "position", "attribute_binding")
COMPOSITION = "composition"

MAX_OBJECTS = 4
MAX_WORDS = 16

_COUNT_WORDS = ("a", "two", "three", "four")
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
_SHAPE_WORDS = {word: shape for shape in SHAPES for word in (shape, _PLURALS[shape])}

VOCABULARY = (
    *_COUNTS,
    *COLOURS,
    *(word for shape in SHAPES for word in (shape, _PLURALS[shape])),
    *("and", "left", "right", "of", "above", "below", "to", "the"),
)

# Categories with too few prompts to hold some out: training would miss their words.
_NEVER_HELD_OUT = ("single_object", "counting", "colours")
_HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class ObjectGroup:
    """Objects of one kind.

    Attributes:
        count: number of objects, 1 to 4.
        shape: one of `SHAPES`.
        colour: one of `COLOURS`, or None if the prompt does not specify it.
    """

    count: int
    shape: str
    colour: str | None = None

    @property
    def text(self) -> str:
        """The group as text."""
        noun = self.shape if self.count == 1 else _PLURALS[self.shape]
        article = "an" if self.count == 1 and (self.colour or noun)[0] in "aeiou" else _COUNT_WORDS[self.count - 1]
        return " ".join(word for word in (article, self.colour, noun) if word)


@dataclass(frozen=True)
class ScenePrompt:
    """One or two groups of objects, and the relation of the first to the second.

    Attributes:
        groups: one or two groups.
        relation: one of `RELATIONS` between the first group and the second, or None.
    """

    groups: tuple[ObjectGroup, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        """The prompt as text, which `parse_prompt` parses."""
        return f" {self.relation or 'and'} ".join(group.text for group in self.groups)

    @property
    def category(self) -> str:
        """One of `CATEGORIES`, or `COMPOSITION`."""
        single = all(group.count == 1 for group in self.groups)
        coloured = [group.colour is not None for group in self.groups]
        if len(self.groups) == 1:
            if not single:
                return COMPOSITION if any(coloured) else "counting"
            return "colours" if any(coloured) else "single_object"
        if not single:
            return COMPOSITION
        if self.relation is not None:
            return COMPOSITION if any(coloured) else "position"
        if all(coloured):
            return "attribute_binding"
        return COMPOSITION if any(coloured) else "two_objects"

    @property
    def held_out(self) -> bool:
        """Whether the prompt is excluded from training: one in five two-object, position and attribute-binding prompts.

        A prompt with two groups is held out in both orders of its groups, so that "a circle and a square" does not leak
        through "a square and a circle".
        """
        if self.category in (*_NEVER_HELD_OUT, COMPOSITION):
            return False
        key = tuple(sorted(group.text for group in self.groups))
        return derive_seed(0, "held_out", *key) % _HELD_OUT_EVERY == 0


def words_of(text: str) -> list[str]:
    """The lower-case words of a prompt.

    Raises:
        UserError: if the prompt is empty, too long, or has a word outside the vocabulary; the message lists the
            vocabulary.
    """
    words = text.lower().replace(",", " ").replace(".", " ").split()
    if not words:
        raise UserError("a prompt is empty: describe the image, for instance 'two red circles left of a blue square'")
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise UserError(
            f"the prompt '{text}' has words outside the small world's vocabulary ({', '.join(unknown)}): use {', '.join(VOCABULARY)}"
        )
    if len(words) > MAX_WORDS:
        raise UserError(f"the prompt '{text}' has {len(words)} words: use at most {MAX_WORDS}")
    return words


def parse_prompt(text: str) -> ScenePrompt:
    """The parsed prompt of `text`.

    Raises:
        UserError: if a word is unknown, or the text is not in the grammar of the small world.

    Example:
        >>> parse_prompt("two red circles left of a blue square").groups[0]
        ObjectGroup(count=2, shape='circle', colour='red')
    """
    words = words_of(text)
    first, rest = _read_group(words, text)
    if not rest:
        return ScenePrompt((first,))
    joined = " ".join(rest).removeprefix("to the ")
    for phrase in ("and", *RELATIONS):
        if joined.startswith(phrase + " "):
            second, left_over = _read_group(joined.removeprefix(phrase).split(), text)
            if left_over:
                break
            if first.count + second.count > MAX_OBJECTS:
                raise UserError(f"the prompt '{text}' has {first.count + second.count} objects: use at most {MAX_OBJECTS}")
            if first.shape == second.shape and (None in (first.colour, second.colour) or first.colour == second.colour):
                raise UserError(f"the prompt '{text}' has two groups that one object could match: give them different shapes or colours")
            return ScenePrompt((first, second), None if phrase == "and" else phrase)
    raise UserError(
        f"the prompt '{text}' is not of the form '<group>' or '<group> and|left of|right of|above|below <group>', "
        "where a group is like 'two red circles'"
    )


def sample_prompt(category: str, *, generator: torch.Generator, held_out: bool | None = None) -> ScenePrompt:
    """A random prompt of `category`, uniform over counts, shapes, colours and relations.

    Args:
        category: one of `CATEGORIES` or `COMPOSITION`.
        generator: the random stream.
        held_out: True for held-out prompts only, if the category has any; False for prompts that are not held out;
            None for all.
    """
    while True:
        prompt = _sample(category, generator)
        if prompt.category != category:
            continue
        if held_out is None or category in (*_NEVER_HELD_OUT, COMPOSITION) or prompt.held_out == held_out:
            return prompt


def near_miss(prompt: ScenePrompt, *, generator: torch.Generator) -> ScenePrompt:
    """A prompt that differs from `prompt` in one count, colour, shape, the relation, or with exchanged colours."""

    def choose(options: Sequence[str], other_than: str | None) -> str:
        left = [option for option in options if option != other_than]
        return left[int(torch.randint(len(left), (), generator=generator))]

    groups = list(prompt.groups)
    index = int(torch.randint(len(groups), (), generator=generator))
    group = groups[index]
    others = sum(other.count for other in groups) - group.count
    counts = [count for count in range(1, MAX_OBJECTS - others + 1) if count != group.count]
    kinds = ["shape", "count"] if counts else ["shape"]
    kinds += ["colour"] * 2 if group.colour else []
    kinds += ["relation"] * 2 if prompt.relation else []
    kinds += ["swap"] * 2 if len(groups) == 2 and groups[0].colour != groups[1].colour else []
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    if kind == "relation":
        return replace(prompt, relation=choose(RELATIONS, prompt.relation))
    if kind == "swap":
        first, second = groups
        return replace(prompt, groups=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    if kind == "shape":
        taken = [other.shape for other in groups]
        changed = replace(group, shape=choose([shape for shape in SHAPES if shape not in taken], None))
    elif kind == "colour":
        changed = replace(group, colour=choose(COLOURS, group.colour))
    else:
        count = counts[int(torch.randint(len(counts), (), generator=generator))]
        changed = ObjectGroup(count, group.shape, group.colour)
    groups[index] = changed
    return replace(prompt, groups=tuple(groups))


def evaluation_prompts(num_prompts: int, *, seed: int) -> list[ScenePrompt]:
    """`num_prompts` prompts, the six categories in turn; held-out combinations if the category has any.

    Categories with few prompts repeat them: an evaluation samples every occurrence with its own noise.
    """
    streams = torch.Generator().manual_seed(derive_seed(seed, "evaluation_prompts"))
    return [sample_prompt(CATEGORIES[index % len(CATEGORIES)], generator=streams, held_out=True) for index in range(num_prompts)]


def _sample(category: str, generator: torch.Generator) -> ScenePrompt:
    def choose(options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    def count(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def other(shape: str) -> str:
        return choose([name for name in SHAPES if name != shape])

    shape = choose(SHAPES)
    if category == "single_object":
        return ScenePrompt((ObjectGroup(1, shape),))
    if category == "counting":
        return ScenePrompt((ObjectGroup(count(2, MAX_OBJECTS), shape),))
    if category == "colours":
        return ScenePrompt((ObjectGroup(1, shape, choose(COLOURS)),))
    if category in ("two_objects", "position"):
        groups = (ObjectGroup(1, shape), ObjectGroup(1, other(shape)))
        return ScenePrompt(groups, choose(RELATIONS) if category == "position" else None)
    first_colour = choose(COLOURS)
    second_colour = choose([name for name in COLOURS if name != first_colour])
    if category == "attribute_binding":
        return ScenePrompt((ObjectGroup(1, shape, first_colour), ObjectGroup(1, other(shape), second_colour)))
    if count(0, 2) == 0:
        return ScenePrompt((ObjectGroup(count(2, MAX_OBJECTS), shape, first_colour),))
    first = count(1, MAX_OBJECTS - 1)
    second = count(1, MAX_OBJECTS - first)
    relation = ("and", *RELATIONS)[count(0, len(RELATIONS))]
    return ScenePrompt(
        (
            ObjectGroup(first, shape, first_colour if count(0, 3) else None),
            ObjectGroup(second, other(shape), second_colour if count(0, 3) else None),
        ),
        None if relation == "and" else relation,
    )


def _read_group(words: Sequence[str], text: str) -> tuple[ObjectGroup, list[str]]:
    """The group at the beginning of `words`, and the words after it."""
    rest = list(words)
    count = _COUNTS[rest.pop(0)] if rest and rest[0] in _COUNTS else None
    colour = rest.pop(0) if rest and rest[0] in COLOURS else None
    if not rest or rest[0] not in _SHAPE_WORDS:
        raise UserError(f"the prompt '{text}' lacks a shape in a group: write a group like 'two red circles'")
    noun = rest.pop(0)
    plural = noun in _PLURALS.values()
    if count is None or plural != (count > 1):
        shape = _SHAPE_WORDS[noun]
        raise UserError(f"the prompt '{text}' has an unclear number of '{noun}': write 'a {shape}' or 'two {_PLURALS[shape]}'")
    return ObjectGroup(count, _SHAPE_WORDS[noun], colour), rest
