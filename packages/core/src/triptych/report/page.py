"""Shared parts of HTML pages: Jinja environment, colours, and PNG images with metadata."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image, PngImagePlugin

COLOURS = """:root { color-scheme: light dark; --ink: #1c1f23; --soft: #667; --line: #d9dce1; --page: #fff; --card: #f7f8fa;
  --good: #0b7a4b; --bad: #b3261e; --warn: #b06a00;
  --c0: #2563eb; --c1: #d9480f; --c2: #2b8a3e; --c3: #9c36b5; --c4: #b8860b; --c5: #0b7285; --c6: #c2255c; --c7: #5c677d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ad; --line: #343a42; --page: #14171a; --card: #1c2025;
  --good: #4fc38a; --bad: #f2716a; --warn: #e0a040;
  --c0: #74a7ff; --c1: #ff9b63; --c2: #69db7c; --c3: #da77f2; --c4: #e6c153; --c5: #66d9e8; --c6: #faa2c1; --c7: #adb5bd; } }"""
"""Colours of pages and charts, light and dark, as CSS variables."""


def environment(package: str) -> Environment:
    """The Jinja environment of the templates in `<package>/report`; they extend `base.html` of `triptych`.

    Inserted text is escaped, and an undefined name raises an error.
    """
    loader = ChoiceLoader([PackageLoader(package, "report"), PackageLoader("triptych", "report")])
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.globals["colours"] = COLOURS
    return found


def encode_png(pixels: np.ndarray, metadata: Mapping[str, str]) -> bytes:
    """A PNG file with text chunks.

    Args:
        pixels: of shape (height, width, 3), uint8.
        metadata: key -> text, such as the source of a generated image.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def png_uri(png: bytes) -> str:
    """A PNG file as a `data:` URI, for pages without outside resources."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
