"""Verifier of the small world: object detection from pixels, and which parts of a prompt hold.

Its only input is the image. Objects are connected regions of one hue whose outline matches a shape; grey of any
brightness is background. The rules follow GenEval: a group of count 1 is fulfilled by one or more matching objects, a
group of a larger count by exactly that number.
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
_CHROMA = 0.25  # pixels of lower chroma are background
_SMALLEST_AREA = 40  # in pixels; smaller regions are ignored
_OVERLAP = 0.72  # smallest intersection over union with the best shape at which a region is an object
_STRETCHES = torch.tensor([0.94, 1.0])  # factors of the ideal shape's radius; the better one counts


@dataclass(frozen=True)
class DetectedObject:
    """An object detected in an image.

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
    """The objects in an image with values in [0, 1], from left to right.

    Raises:
        ValueError: if the image does not have `IMAGE_SIZE` x `IMAGE_SIZE` pixels.
    """
    if tuple(image.shape) != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"the image has shape {tuple(image.shape)}: the verifier needs (3, {IMAGE_SIZE}, {IMAGE_SIZE})")
    # Channels, chroma and hue are (height, width) arrays. Hue follows the usual hexagon in [0, 6); distance (colours, height,
    # width) to the reference hues is circular, and each pixel takes the nearest colour.
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
    """`Verifier` for prompts in the small world's grammar and images of its size."""

    def __call__(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """The verdict; its note is the reason if the prompt is not in the grammar or the image has another size."""
        try:
            return check_image(image.cpu(), parse_prompt(prompt))
        except ValueError as error:
            return Verdict(note=str(error))


def verify(image: Image.Image | Float[Tensor, "3 height width"], prompt: str) -> bool:
    """Whether every part of a prompt of the small world holds in an image.

    Args:
        image: a PIL image, or a tensor in [0, 1], of 64 x 64 pixels.
        prompt: a prompt in the small world's grammar, such as "two red circles left of a blue square".

    Raises:
        UserError: if the prompt is not in the grammar, or the image has another size.

    Example:
        >>> import torch
        >>> verify(torch.full((3, 64, 64), 0.3), "a red circle")
        False
    """
    if isinstance(image, Image.Image):
        image = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    if tuple(image.shape) != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise UserError(
            f"the image has shape {tuple(image.shape)}: the verifier needs {IMAGE_SIZE} x {IMAGE_SIZE} pixels in three channels"
        )
    return check_image(image.cpu(), parse_prompt(prompt)).correct


def check_image(image: Float[Tensor, "3 height width"], prompt: ScenePrompt) -> Verdict:
    """Which parts of `prompt` hold in an image with values in [0, 1]."""
    return check_objects(detect_objects(image), prompt)


def check_objects(objects: list[DetectedObject], prompt: ScenePrompt) -> Verdict:
    """Which parts of `prompt` hold for the objects detected in an image."""
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
    """The object of a connected region, by the ideal shape with the largest soft overlap; None if that is too small."""
    rows, columns = box
    # Soft mask (height, width): an edge pixel's coverage is its chroma divided by the chroma inside the region.
    full = np.quantile(chroma[region], 0.8)
    around = ndimage.binary_dilation(region, iterations=1)
    soft = np.where(around, np.minimum(chroma / full, 1.0), 0.0)
    x, y = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    half = max(columns.stop - columns.start, rows.stop - rows.start) / 2
    # radii (stretches, shapes) from half the box: a square is smaller than its box by SQUARE_SIDE, and soft edges widen the box,
    # hence the stretches. ideal (stretches * shapes, height, width); min / max sums are the soft intersection over union.
    radii = half * _STRETCHES[:, None] / torch.tensor([SQUARE_SIDE if shape == "square" else 1.0 for shape in SHAPES])
    ideal = shape_coverages(x, y, radii).flatten(0, 1).numpy()
    overlaps = np.minimum(soft, ideal).sum((1, 2)) / np.maximum(soft, ideal).sum((1, 2))
    best = int(overlaps.argmax())
    if overlaps[best] < _OVERLAP:
        return None
    return DetectedObject(SHAPES[best % len(SHAPES)], colour, x, y, float(overlaps[best]))
