"""Pictures as files that say where they come from."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_image(picture: Float[Tensor, "3 height width"]) -> Image.Image:
    """An 8-bit RGB image of a picture in [0, 1], rounded to the nearest level."""
    levels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(levels)


def save_png(path: Path, picture: Float[Tensor, "3 height width"], facts: Mapping[str, Any]) -> None:
    """Writes a PNG atomically; `facts` go into its text chunks, together with the note that it is generated."""
    info = PngInfo()
    info.add_text("Software", "tts-var")
    info.add_text("Source", "generated image")
    for key, value in facts.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    partial = path.with_name(f".{path.name}.partial")
    to_image(picture).save(partial, format="PNG", pnginfo=info)
    partial.replace(path)


def data_uri(picture: Float[Tensor, "3 height width"]) -> str:
    """A PNG as a `data:` address, for pages without outside resources."""
    buffer = io.BytesIO()
    to_image(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
