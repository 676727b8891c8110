"""Conversion of image tensors to PIL images, PNG files with provenance metadata, and `data:` URIs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from triptych.files import write_atomically
from triptych.report.page import encode_png, png_uri


def to_image(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """An 8-bit RGB PIL image of a tensor in [0, 1], rounded to the nearest level."""
    levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(levels)


def save_png(path: Path, image: Float[Tensor, "3 height width"], metadata: Mapping[str, Any]) -> None:
    """Writes a PNG atomically; `metadata` is stored in its text chunks, with a note that the image is generated."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    write_atomically(path, _png(image, texts))


def data_uri(image: Float[Tensor, "3 height width"]) -> str:
    """A PNG as a `data:` URI, for pages without external resources."""
    return png_uri(_png(image, {}))


def _png(image: Float[Tensor, "3 height width"], texts: Mapping[str, str]) -> bytes:
    return encode_png(np.asarray(to_image(image)), {"Software": "tts-var", "Source": "generated image", **texts})
