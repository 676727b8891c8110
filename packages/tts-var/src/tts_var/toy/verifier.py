"""Reads a picture of the small world and says which parts of a prompt hold.

The checker sees pixels alone. Objects are connected regions of one hue whose outline matches a shape; grey is
background, whatever its brightness. The rules are GenEval's: a group is fulfilled by at least as many matching
objects as it asks for, and a count of two or more has to be met exactly.
"""

import colorsys
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

from triptych.errors import UserError
from tts_var.scorers import Verdict
from tts_var.toy.prompts import COLOURS, SHAPES, ObjectGroup, ScenePrompt, parse_prompt
from tts_var.toy.rendering import COLOUR_VALUES, IMAGE_SIZE, RELATION_PIXELS, SQUARE_SIDE, holds, shape_coverages

_HUES = np.array([colorsys.rgb_to_hsv(*COLOUR_VALUES[colour])[0] for colour in COLOURS])
_CHROMA = 0.25  # below, a pixel is background
_SMALLEST_AREA = 40
_OVERLAP = 0.72  # intersection over union with the best shape, below which a region is no object
_STRETCHES = torch.tensor([0.94, 1.0])  # of the ideal shape


@dataclass(frozen=True)
class DetectedObject:
    """An object found in a picture.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        x, y: centre of its box in pixels from the left and the top.
        overlap: intersection over union with the ideal shape, in [0, 1].
    """

    shape: str
    colour: str
    x: float
    y: float
    overlap: float


def detect_objects(image: Float[Tensor, "3 height width"]) -> list[DetectedObject]:
    """The objects in a picture with values in [0, 1], from left to right.

    Raises:
        ValueError: if the picture has not `IMAGE_SIZE` x `IMAGE_SIZE` pixels.
    """
    if tuple(image.shape) != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"the checker reads pictures of shape (3, {IMAGE_SIZE}, {IMAGE_SIZE}), not {tuple(image.shape)}")
    red, green, blue = image.double().clamp(0, 1).numpy()
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = highest - lowest
    safe = np.where(chroma > 0, chroma, 1.0)
    hue = np.where(highest == red, (green - blue) / safe % 6, np.where(highest == green, (blue - red) / safe + 2, (red - green) / safe + 4))
    distance = np.abs(hue[None] / 6 - _HUES[:, None, None])
    nearest = np.minimum(distance, 1 - distance).argmin(0)
    found = []
    for index, colour in enumerate(COLOURS):
        regions, _ = ndimage.label((chroma > _CHROMA) & (nearest == index))
        for number, box in enumerate(ndimage.find_objects(regions), start=1):
            region = regions == number
            if region.sum() >= _SMALLEST_AREA:
                detected = _recognise(region, box, chroma, colour)
                if detected is not None:
                    found.append(detected)
    return sorted(found, key=lambda item: item.x)


class SmallWorldVerifier:
    """The small world's `Verifier`: sentences of its grammar, pictures of its size."""

    def __call__(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """The verdict, or why there is none: the prompt is no sentence of the small world, or the picture of another size."""
        try:
            return check_image(image.cpu(), parse_prompt(prompt))
        except ValueError as error:
            return Verdict(note=str(error))


def verify(image: Image.Image | Float[Tensor, "3 height width"], prompt: str) -> bool:
    """Whether a picture fulfils a prompt of the small world, in every part.

    Args:
        image: a PIL image, or a tensor in [0, 1], of 64 x 64 pixels.
        prompt: a sentence of the small world, such as "two red circles left of a blue square".

    Raises:
        UserError: if the prompt cannot be read, or the picture has another size.

    Example:
        >>> import torch
        >>> verify(torch.full((3, 64, 64), 0.3), "a red circle")
        False
    """
    if isinstance(image, Image.Image):
        image = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    if tuple(image.shape) != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise UserError(
            f"the picture has shape {tuple(image.shape)}: the verifier reads {IMAGE_SIZE} x {IMAGE_SIZE} pixels in three colours"
        )
    return check_image(image.cpu(), parse_prompt(prompt)).correct


def check_image(image: Float[Tensor, "3 height width"], prompt: ScenePrompt) -> Verdict:
    """Which parts of `prompt` hold in a picture with values in [0, 1]."""
    return check_objects(detect_objects(image), prompt)


def check_objects(objects: list[DetectedObject], prompt: ScenePrompt) -> Verdict:
    """Which parts of `prompt` hold for the objects found in a picture."""
    parts: dict[str, bool] = {}
    chosen: list[list[DetectedObject]] = []
    for group in prompt.groups:
        matching = [item for item in objects if _matches(item, group)]
        parts[group.text] = len(matching) == group.count if group.count > 1 else len(matching) >= 1
        chosen.append(matching)
    if prompt.relation is not None:
        parts[prompt.relation] = all(chosen) and all(
            holds(prompt.relation, first.x, first.y, second.x, second.y, margin=RELATION_PIXELS) for first, second in product(*chosen)
        )
    return Verdict(parts)


def _matches(item: DetectedObject, group: ObjectGroup) -> bool:
    return item.shape == group.shape and (group.colour is None or item.colour == group.colour)


def _recognise(region: np.ndarray, box: tuple[slice, slice], chroma: np.ndarray, colour: str) -> DetectedObject | None:
    rows, columns = box
    # Coverage of the edge pixels is their share of the region's full chroma.
    full = np.quantile(chroma[region], 0.8)
    around = ndimage.binary_dilation(region, iterations=1)
    soft = np.where(around, np.minimum(chroma / full, 1.0), 0.0)
    x, y = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    half = max(columns.stop - columns.start, rows.stop - rows.start) / 2
    # The box of a region is that of its outline: a square's radius follows from its side, and soft edges widen the box.
    radii = half * _STRETCHES[:, None] / torch.tensor([SQUARE_SIDE if shape == "square" else 1.0 for shape in SHAPES])
    ideal = shape_coverages(x, y, radii).flatten(0, 1).numpy()
    overlaps = np.minimum(soft, ideal).sum((1, 2)) / np.maximum(soft, ideal).sum((1, 2))
    best = int(overlaps.argmax())
    if overlaps[best] < _OVERLAP:
        return None
    return DetectedObject(SHAPES[best % len(SHAPES)], colour, x, y, float(overlaps[best]))
