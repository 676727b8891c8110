"""Parts of pages: PNG files with their metadata, data URIs, and templates that escape text and refuse undefined names."""

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from triptych.report.page import encode_png, environment, png_uri


def test_a_png_keeps_pixels_and_metadata() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    png = encode_png(pixels, {"Source": "generated image", "prompt": "é <b> & \u4e2d"})
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (7, 5)
        assert (np.asarray(image) == pixels).all()
        assert image.info == {"Source": "generated image", "prompt": "é <b> & \u4e2d"}


def test_a_data_uri_holds_the_file() -> None:
    png = encode_png(np.zeros((1, 1, 3), dtype=np.uint8), {})
    kind, _, content = png_uri(png).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == png


def test_templates_escape_and_refuse_missing_names() -> None:
    page = environment("triptych").from_string('{% extends "base.html" %}{% block body %}<p>{{ text }}</p>{% endblock %}')
    assert "<p>&lt;script&gt;</p>" in page.render(text="<script>")
    with pytest.raises(UndefinedError):
        page.render()


def test_every_page_has_light_and_dark_colours_and_no_outside_resource() -> None:
    page = environment("triptych").from_string('{% extends "base.html" %}').render()
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page
