"""Sampling and rendering of scenes: anti-aliased coloured shapes on a grey background, 64 x 64 pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.seeding import generator as seeded
from tts_var.toy.prompts import CATEGORIES, COLOURS, COMPOSITION, SHAPES, ScenePrompt, sample_prompt

IMAGE_SIZE = 64

# sRGB in [0, 1], far enough apart in hue that a pixel's hue identifies its colour.
COLOUR_VALUES = {
    "red": (0.88, 0.12, 0.12),
    "orange": (0.95, 0.52, 0.08),
    "yellow": (0.94, 0.88, 0.12),
    "green": (0.12, 0.68, 0.22),
    "blue": (0.15, 0.30, 0.92),
    "purple": (0.62, 0.16, 0.80),
}

SQUARE_SIDE = 0.88  # fraction of the side of its box, so that squares and circles have similar areas

# "Left of" means that the centres of all pairs are this many pixels apart along the axis (the verifier's bound);
# sampled scenes keep a larger margin.
RELATION_PIXELS = 6.0
_RELATION_MARGIN = 12.0
_GAP = 3.0
_BORDER = 2.0
_RADIUS = (6.5, 9.5)
# Centres in pixels of the objects of a scene without variety, all in the middle of the lattice's cells: by the count of a
# single group, or, for two groups, in a line on each side.
_LATTICE = 4.0
_ONE_GROUP = {1: ((34, 34),), 2: ((18, 34), (46, 34)), 3: ((18, 18), (46, 18), (34, 46)), 4: ((18, 18), (46, 18), (18, 46), (46, 46))}
_IN_LINE = {1: (34,), 2: (18, 46), 3: (14, 34, 54)}
_SIDES = (18, 46)
_MIX = {"single_object": 0.06, "two_objects": 0.14, "counting": 0.2, "colours": 0.06, "position": 0.2, "attribute_binding": 0.2}

_Placed = tuple[int, float, float, float]  # group, centre x, centre y, radius


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        x, y: centre in pixels from the left and the top.
        radius: half of the extent, in pixels.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float


def sample_scene(prompt: ScenePrompt, *, generator: torch.Generator, variety: float = 1.0) -> tuple[SceneObject, ...]:
    """Objects that fulfil `prompt` without overlap: open colours are sampled per group, locations by rejection.

    Args:
        prompt: the prompt to fulfil.
        generator: the random stream.
        variety: variation of locations and sizes: 1 for any, 0 for one layout per prompt and one size; values between
            interpolate linearly.
    """
    colours = [group.colour or COLOURS[int(torch.randint(len(COLOURS), (), generator=generator))] for group in prompt.groups]
    typical = _typical_centres(prompt)
    while True:
        placed: list[_Placed] = []
        for index, group in enumerate(prompt.groups):
            for _ in range(group.count):
                spot = _sample_object(placed, index, prompt.relation, generator)
                if spot is None:
                    break
                placed.append(spot)
        if len(placed) < len(typical):
            continue
        placed = [_towards(spot, centre, variety) for spot, centre in zip(placed, typical, strict=True)]
        if all(_fits(spot, placed[:index], prompt.relation) for index, spot in enumerate(placed)):
            break
    return tuple(SceneObject(prompt.groups[index].shape, colours[index], x, y, radius) for index, x, y, radius in placed)


def render_scenes(
    scenes: Sequence[Sequence[SceneObject]], *, generator: torch.Generator, variety: float = 1.0
) -> Float[Tensor, "batch 3 height width"]:
    """Rendered scenes in [0, 1], float32, `IMAGE_SIZE` pixels per side.

    Background (a grey with a slight vertical gradient) and small variations of the colours are sampled from `generator`
    and scaled by `variety`.
    """
    # Padded to the largest number of objects: values and geometry (batch, objects, 3), kinds (batch, objects). Objects are
    # composited in order; distances (batch, shapes, height, width) are evaluated for all shapes and gathered by kind.
    batch, most = len(scenes), max(len(scene) for scene in scenes)
    values = torch.zeros(batch, most, 3)
    geometry = torch.zeros(batch, most, 3)
    geometry[..., 2] = -1e3  # padding objects have no extent
    kinds = torch.zeros(batch, most, dtype=torch.long)
    for row, scene in enumerate(scenes):
        for column, item in enumerate(scene):
            values[row, column] = torch.tensor(COLOUR_VALUES[item.colour])
            geometry[row, column] = torch.tensor((item.x, item.y, item.radius))
            kinds[row, column] = SHAPES.index(item.shape)
    grey = 0.27 + variety * 0.3 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5)
    slope = variety * 0.08 * (torch.rand(batch, 1, 1, 1, generator=generator) - 0.5) * torch.linspace(-1, 1, IMAGE_SIZE).view(1, 1, -1, 1)
    image = (grey + slope).expand(batch, 3, IMAGE_SIZE, IMAGE_SIZE).clone()
    values = (values + variety * 0.04 * (torch.rand(values.shape, generator=generator) - 0.5)).clamp(0, 1)
    for column in range(most):
        across, down = _offsets(geometry[:, column, 0], geometry[:, column, 1])
        distances = torch.stack([distance(across, down, geometry[:, column, 2, None, None]) for distance in _DISTANCES.values()], dim=1)
        coverage = _coverage(distances[torch.arange(batch), kinds[:, column]])[:, None]
        image = torch.lerp(image, values[:, column, :, None, None].expand_as(image), coverage)
    return image


def training_pair(index: int, *, seed: int, variety: float = 1.0) -> tuple[ScenePrompt, tuple[SceneObject, ...]]:
    """The prompt and scene of training example `index`; held-out prompts are excluded."""
    stream = seeded(seed, "small_world", index)
    names = (*CATEGORIES, COMPOSITION)
    weights = torch.tensor([_MIX.get(name, 1 - sum(_MIX.values())) for name in names])
    category = names[int(torch.multinomial(weights, 1, generator=stream))]
    prompt = sample_prompt(category, generator=stream, held_out=False)
    return prompt, sample_scene(prompt, generator=stream, variety=variety)


def shape_coverages(x: float, y: float, radii: Float[Tensor, "sizes shapes"]) -> Float[Tensor, "sizes shapes height width"]:
    """Coverage of each pixel by each of `SHAPES`, in [0, 1], with one radius per size and shape."""
    across, down = _offsets(torch.tensor(x), torch.tensor(y))
    distances = [distance(across, down, radii[:, index, None, None]) for index, distance in enumerate(_DISTANCES.values())]
    return _coverage(torch.stack(distances, dim=1))


def _sample_object(placed: Sequence[_Placed], group: int, relation: str | None, generator: torch.Generator) -> _Placed | None:
    for _ in range(40):
        u, v, w = torch.rand(3, generator=generator).tolist()
        radius = _RADIUS[0] + u * (_RADIUS[1] - _RADIUS[0])
        low, high = radius + _BORDER, IMAGE_SIZE - radius - _BORDER
        spot = group, low + v * (high - low), low + w * (high - low), radius
        if _fits(spot, placed, relation):
            return spot
    return None


def _fits(spot: _Placed, placed: Sequence[_Placed], relation: str | None) -> bool:
    """Whether an object keeps the minimum distance from those before it and the relation holds with the other group."""
    group, x, y, radius = spot
    apart = all(max(abs(x - ox), abs(y - oy)) >= radius + other + _GAP for _, ox, oy, other in placed)
    return apart and all(holds(relation, ox, oy, x, y, margin=_RELATION_MARGIN) for other, ox, oy, _ in placed if other != group)


def _typical_centres(prompt: ScenePrompt) -> list[tuple[float, float]]:
    """The layout of a prompt without variety, centres in pixels: two groups on opposite sides, the first at the left."""
    if len(prompt.groups) == 1:
        return [(float(x), float(y)) for x, y in _ONE_GROUP[prompt.groups[0].count]]
    sides = _SIDES[::-1] if prompt.relation in ("right of", "below") else _SIDES
    along = [(float(side), float(offset)) for side, group in zip(sides, prompt.groups, strict=True) for offset in _IN_LINE[group.count]]
    return [(offset, side) for side, offset in along] if prompt.relation in ("above", "below") else along


def _towards(spot: _Placed, centre: tuple[float, float], variety: float) -> _Placed:
    """The object interpolated by `variety` from the typical location (the middle of a lattice cell) and size to its own."""
    group, x, y, radius = spot
    middle = (_RADIUS[0] + _RADIUS[1]) / 2
    near = (typical + variety * (own - typical) for own, typical in zip((x, y), centre, strict=True))
    across, down = (_cell_middle(value) + variety * (value - _cell_middle(value)) for value in near)
    return group, across, down, middle + variety * (radius - middle)


def _cell_middle(coordinate: float) -> float:
    return (math.floor(coordinate / _LATTICE) + 0.5) * _LATTICE


def holds(relation: str | None, first_x: float, first_y: float, second_x: float, second_y: float, *, margin: float) -> bool:
    """Whether the first centre is `relation` the second by at least `margin` pixels; y increases downwards."""
    if relation is None:
        return True
    offset = {
        "left of": second_x - first_x,
        "right of": first_x - second_x,
        "above": second_y - first_y,
        "below": first_y - second_y,
    }[relation]
    return offset >= margin


def _offsets(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical offsets of all pixel centres from (x, y), in pixels; right and down are positive."""
    centres = torch.arange(IMAGE_SIZE) + 0.5
    return centres.view(1, 1, -1) - x.reshape(-1, 1, 1), centres.view(1, -1, 1) - y.reshape(-1, 1, 1)


def _circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt() - radius


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - SQUARE_SIDE * radius


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    # Upright and inscribed in its box: base below, apex above.
    return torch.maximum((2.0 * x.abs() - y - radius) / 5.0**0.5, y - radius)


def _cross(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    far, near = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(near - 0.36 * radius, far - radius)


def _ring(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return ((x.square() + y.square()).sqrt() - 0.76 * radius).abs() - 0.24 * radius


# Signed distances in pixels of the offsets (x, y) from a shape's outline; inside is negative.
_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring}
assert tuple(_DISTANCES) == SHAPES


def _coverage(distances: Tensor) -> Tensor:
    """Coverage in [0, 1] from signed distances; the edge is one pixel wide."""
    return (0.5 - distances).clamp(0, 1)
