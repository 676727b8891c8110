"""Renderer of tiny cinema: one character, with or without a prop, in front of a set; anti-aliased signed distance functions.

Lengths are in units of 1/64 of the frame side, independent of the number of pixels; y increases downwards.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# sRGB in [0, 1]. Walls are pale, grounds dull and bodies saturated, so that colours differ at low resolution too.
BODY_COLOURS = {
    "red": (0.88, 0.12, 0.14),
    "orange": (0.98, 0.55, 0.05),
    "yellow": (0.98, 0.90, 0.10),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.90),
    "purple": (0.58, 0.14, 0.72),
}
WALL_COLOURS = {
    "cream": (0.96, 0.92, 0.78),
    "sky": (0.70, 0.86, 0.98),
    "mint": (0.72, 0.94, 0.78),
    "rose": (0.98, 0.76, 0.80),
    "grey": (0.66, 0.66, 0.68),
    "lilac": (0.82, 0.72, 0.94),
}
GROUND_COLOURS = {"brown": (0.42, 0.28, 0.18), "moss": (0.30, 0.42, 0.22), "slate": (0.28, 0.32, 0.42), "sand": (0.78, 0.66, 0.44)}
BODY_SHAPES = ("circle", "square", "diamond", "triangle")
HATS = ("none", "cap", "crown", "antenna")
BADGES = ("bar", "pole", "slash", "backslash")
DECORATIONS = ("none", "window", "moon", "tree")
PROPS = ("none", *BODY_COLOURS)
SIZES = {"wide": 8.0, "medium": 12.0, "close": 17.0}
POSITIONS = {"left": 16.0, "centre": 32.0, "right": 48.0}
ACTIONS = ("still", "walk left", "walk right", "jump", "approach")

IMAGE_SIZE = 64
HORIZON = 44.0
CLIP_FRAMES = 9
_FLOOR = 56.0  # bottom of a body
_WALK, _JUMP, _APPROACH = 10.0, 9.0, 0.4
_DARK, _LIGHT = (0.13, 0.12, 0.16), (0.98, 0.98, 0.98)
_DECORATION_CENTRES = ((8.0, 10.0), (56.0, 10.0))  # both upper corners, as a close shot hides one of them


@dataclass(frozen=True)
class Identity:
    """The look of a character.

    Attributes:
        colour: one of `BODY_COLOURS`.
        shape: one of `BODY_SHAPES`.
        hat: one of `HATS`.
        badge: one of `BADGES`, a light stroke on the body.
    """

    colour: str
    shape: str
    hat: str
    badge: str


@dataclass(frozen=True)
class Setting:
    """The look of a place.

    Attributes:
        wall: one of `WALL_COLOURS`.
        ground: one of `GROUND_COLOURS`.
        decoration: one of `DECORATIONS`.
    """

    wall: str
    ground: str
    decoration: str


@dataclass(frozen=True)
class Scene:
    """The full content of one frame.

    Attributes:
        identity: look of the character.
        setting: look of the place.
        size: one of `SIZES`.
        position: one of `POSITIONS`.
        prop: one of `PROPS`: the colour of the box that the character carries, or `none`.
    """

    identity: Identity
    setting: Setting
    size: str
    position: str
    prop: str = "none"


IDENTITY_VALUES = (tuple(BODY_COLOURS), BODY_SHAPES, HATS, BADGES)
SETTING_VALUES = (tuple(WALL_COLOURS), tuple(GROUND_COLOURS), DECORATIONS)
LOOK_VALUES = (*IDENTITY_VALUES, *SETTING_VALUES, PROPS)

Looks = Int[Tensor, "frames 8"]
Places = Float[Tensor, "frames 3"]
Frames = Float[Tensor, "frames 3 height width"]


def looks_of(scenes: Sequence[Scene]) -> Looks:
    """Indices into `LOOK_VALUES` per scene: colour, shape, hat, badge, wall, ground, decoration, prop."""
    rows = [(*astuple(scene.identity), *astuple(scene.setting), scene.prop) for scene in scenes]
    indices = [[values.index(value) for values, value in zip(LOOK_VALUES, row, strict=True)] for row in rows]
    return torch.tensor(indices, dtype=torch.long).reshape(-1, len(LOOK_VALUES))


def places_of(scenes: Sequence[Scene]) -> Places:
    """Centre (x, y) and radius of the body of every scene."""
    rows = [(POSITIONS[scene.position], _FLOOR - SIZES[scene.size], SIZES[scene.size]) for scene in scenes]
    return torch.tensor(rows).reshape(-1, 3)


def render_images(scenes: Sequence[Scene], *, image_size: int = 64) -> Frames:
    """Frames of scenes, float32 in [-1, 1]."""
    return render(looks_of(scenes), places_of(scenes), image_size=image_size)


def render_clip(scene: Scene, action: str, *, image_size: int = 64, num_frames: int = CLIP_FRAMES) -> Frames:
    """The frames of an action that starts from `scene`, float32 in [-1, 1].

    Args:
        scene: scene of the first frame.
        action: one of `ACTIONS`.
        image_size: side of a frame, in pixels.
        num_frames: number of frames, evenly spaced from the start of the action to its end.
    """
    return render(looks_of([scene] * num_frames), action_places(scene, action, num_frames), image_size=image_size)


def action_places(scene: Scene, action: str, num_frames: int = CLIP_FRAMES) -> Places:
    """Centre and radius of the body in every frame of an action."""
    locations = places_of([scene]).repeat(num_frames, 1)
    progress = torch.linspace(0, 1, num_frames)
    if action in ("walk left", "walk right"):
        locations[:, 0] += _WALK * progress * (1 if action == "walk right" else -1)
    elif action == "jump":
        locations[:, 1] -= _JUMP * 4 * progress * (1 - progress)
    elif action == "approach":
        locations[:, 2] *= 1 + _APPROACH * progress
        locations[:, 1] = _FLOOR - locations[:, 2]
    return locations


def render(looks: Looks, places: Places, *, image_size: int = 64) -> Frames:
    """Frames of looks at given locations.

    Args:
        looks: indices from `looks_of`.
        places: centres and radii from `places_of`.
        image_size: side of a frame, in pixels.

    Returns:
        Float32 in [-1, 1].
    """
    canvas = Canvas(render_settings(looks[:, 4:7], image_size=image_size), image_size)
    canvas.render_character(looks[:, :4], places)
    canvas.render_prop(looks[:, 7], places)
    return canvas.frames


def render_settings(settings: Int[Tensor, "frames 3"], *, image_size: int = 64) -> Frames:
    """Sets without a character, from indices of wall, ground and decoration."""
    walls, grounds = _colours(WALL_COLOURS)[settings[:, 0]], _colours(GROUND_COLOURS)[settings[:, 1]]
    canvas = Canvas(walls[:, :, None, None].expand(-1, -1, image_size, image_size), image_size)
    canvas.fill(HORIZON - canvas.y, grounds)
    for x, y in _DECORATION_CENTRES:
        # Coordinates relative to the decoration; every decoration is filled in all frames and masked by `shown` (frames, 1, 1).
        across, down = canvas.x - x, canvas.y - y
        shown = [(settings[:, 2] == index)[:, None, None] for index in range(len(DECORATIONS))]
        frame = torch.maximum(across.abs() - 5.0, down.abs() - 6.0)
        canvas.fill(frame, _LIGHT, shown[1])
        for dx, dy in ((-2.3, -2.8), (2.3, -2.8), (-2.3, 2.8), (2.3, 2.8)):
            canvas.fill(torch.maximum((across - dx).abs() - 1.6, (down - dy).abs() - 2.1), (0.20, 0.38, 0.60), shown[1])
        disc, bite = across.hypot(down) - 5.5, (across - 3.0).hypot(down + 1.5) - 4.5
        canvas.fill(torch.maximum(disc, -bite), (0.98, 0.86, 0.36), shown[2])
        canvas.fill(torch.maximum(across.abs() - 1.2, (down - 4.0).abs() - 3.0), (0.36, 0.22, 0.10), shown[3])
        canvas.fill(across.hypot(down + 2.0) - 4.6, (0.06, 0.36, 0.16), shown[3])
    return canvas.frames


class Canvas:
    """Frames (frames, 3, side, side) onto which shapes are composited in order; `x` and `y` are pixel centres."""

    def __init__(self, background: Tensor, image_size: int) -> None:
        self.frames = background
        self._softness = image_size / 64  # pixels per unit of length: the anti-aliased edge is one pixel wide
        centres = (torch.arange(image_size) + 0.5) / self._softness
        self.x, self.y = centres.view(1, 1, -1), centres.view(1, -1, 1)

    def fill(self, distance: Tensor, colours: Tensor | tuple[float, float, float], shown: Tensor | None = None) -> None:
        """Composites a colour in [0, 1], or one per frame in [-1, 1], over all pixels inside a shape (negative distance)."""
        # distance is (frames or 1, side, side) in units of length; coverage is the alpha of every pixel.
        coverage = (0.5 - distance * self._softness).clamp(0, 1)
        if shown is not None:
            coverage = coverage * shown
        values = torch.tensor(colours)[None] * 2 - 1 if isinstance(colours, tuple) else colours
        self.frames = self.frames + coverage[:, None] * (values[:, :, None, None] - self.frames)

    def render_character(self, identities: Tensor, places: Tensor) -> None:
        """Renders body, badge and hat."""
        # Coordinates (frames, side, side) in units of the radius; distances are scaled back by the radius before filling.
        cx, cy, radius = (places[:, index, None, None] for index in range(3))
        x, y = (self.x - cx) / radius, (self.y - cy) / radius
        # Signed distances of all shapes (frames, shapes, side, side), in the order of BODY_SHAPES, from which each frame takes its own.
        bodies = torch.stack(
            [
                x.hypot(y) - 1.0,
                torch.maximum(x.abs(), y.abs()) - 0.88,
                (x.abs() + y.abs() - 1.2) / 2**0.5,
                torch.maximum((2.0 * x.abs() - y - 1.0) / 5**0.5, y - 0.95),
            ],
            dim=1,
        )
        shape, hat, badge = identities[:, 1], identities[:, 2], identities[:, 3]
        body = bodies[torch.arange(len(bodies)), shape]
        self.fill(body * radius, _colours(BODY_COLOURS)[identities[:, 0]])
        # Badge strokes, in the order of BADGES, at a height at which every body is wide, including the triangle.
        down = y - 0.25
        strokes = torch.stack(
            [
                _stroke(x, down),
                _stroke(down, x),
                _stroke((x - down) / 2**0.5, (x + down) / 2**0.5),
                _stroke((x + down) / 2**0.5, (x - down) / 2**0.5),
            ],
            dim=1,
        )
        self.fill(strokes[torch.arange(len(strokes)), badge] * radius, _LIGHT)
        # Hats are placed relative to the top of the body shape.
        tops = torch.tensor((-1.0, -0.88, -1.2, -1.0))[shape][:, None, None]
        above = y - tops - 0.12  # hats overlap the head slightly
        cap = torch.minimum(torch.maximum(x.hypot(above) - 0.5, above), torch.maximum((x - 0.25).abs() - 0.7, (above + 0.02).abs() - 0.09))
        teeth = ((x + 1.0).remainder(0.4) - 0.2).abs() * 2.0 - (above + 0.62)
        crown = torch.maximum(torch.maximum(x.abs() - 0.6, above), torch.maximum(-(above + 0.62), teeth * 0.45))
        antenna = torch.minimum(torch.maximum(x.abs() - 0.07, (above + 0.3).abs() - 0.3), x.hypot(above + 0.62) - 0.17)
        for index, distance in enumerate((cap, crown, antenna), start=1):
            self.fill(distance * radius, _DARK, (hat == index)[:, None, None])

    def render_prop(self, props: Tensor, places: Tensor) -> None:
        """Renders a box at the feet of the character, in frames with a prop index above 0."""
        cx, cy, radius = (places[:, index, None, None] for index in range(3))
        x, y = (self.x - cx) / radius, (self.y - cy) / radius - 1.02
        box = torch.maximum(x.abs(), y.abs()) - 0.28
        shown = (props > 0)[:, None, None]
        self.fill((box - 0.08) * radius, _DARK, shown)
        self.fill(box * radius, _colours(BODY_COLOURS)[(props - 1).clamp(min=0)], shown)


def _stroke(along: Tensor, across: Tensor) -> Tensor:
    return torch.maximum(along.abs() - 0.42, across.abs() - 0.13)


def _colours(table: dict[str, tuple[float, float, float]]) -> Tensor:
    return torch.tensor(list(table.values())) * 2 - 1
