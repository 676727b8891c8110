"""Film files (mp4), title cards and contact sheets; films carry provenance metadata."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from captain_cinema.images import PROVENANCE
from triptych.errors import UserError

_INK, _PAPER = (236, 232, 222), (22, 22, 26)


def title_card(text: str, size: tuple[int, int]) -> UInt8[Tensor, "height width 3"]:
    """An image of a text, centered and wrapped.

    Args:
        text: the title.
        size: (height, width) in pixels.
    """
    height, width = size
    card = Image.new("RGB", (width, height), _PAPER)
    font = ImageFont.load_default(max(10, height // 14))
    draw = ImageDraw.Draw(card)
    lines = _lines(text, font, 0.84 * width)
    draw.multiline_text((width / 2, height / 2), "\n".join(lines), fill=_INK, font=font, anchor="mm", align="center", spacing=height // 40)
    return torch.from_numpy(np.asarray(card).copy())


def write_film(
    path: Path,
    clips: Iterable[UInt8[Tensor, "frames height width 3"]],
    *,
    frames_per_second: Fraction,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Writes an mp4 (H.264, yuv420p, index at the front for streaming), atomically.

    Args:
        path: the file to write.
        clips: clips in order, all of one size with even sides.
        frames_per_second: frame rate of all clips.
        metadata: `title` becomes the title tag, all other entries part of the comment, as mp4 has few tags.

    Returns:
        The number of frames.

    Raises:
        UserError: if the file cannot be written or a side is odd.
    """
    entries = dict(metadata or {})
    tags = {"title": entries.pop("title")} if "title" in entries else {}
    tags["comment"] = " ".join((PROVENANCE, *(f"{key}: {value}." for key, value in entries.items())))
    partial = path.with_name(f".{path.name}.partial")
    count = 0
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata.update(tags)
            stream = None
            for clip in clips:
                for frame in clip.numpy():
                    if stream is None:
                        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18", "preset": "medium"})
                        stream.height, stream.width = frame.shape[:2]
                        stream.pix_fmt = "yuv420p"
                        if frame.shape[0] % 2 or frame.shape[1] % 2:
                            raise UserError(f"{path}: a frame has {frame.shape[0]} x {frame.shape[1]} pixels: H.264 requires even sides")
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    count += 1
            if stream is None:
                raise UserError(f"{path}: the film has no frame: give at least one")
            container.mux(stream.encode())
    except (OSError, av.error.FFmpegError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error})") from error
    except UserError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    return count


def contact_sheet(
    frames: Sequence[UInt8[Tensor, "height width 3"]], captions: Sequence[str], *, columns: int = 4
) -> UInt8[Tensor, "height width 3"]:
    """All keyframes in a grid, numbered, each above its caption."""
    height, width = frames[0].shape[:2]
    font = ImageFont.load_default(max(10, height // 18))
    # A cell is a frame with `room` pixels below it for up to three lines of caption; margins separate the cells.
    margin, room = max(8, height // 24), 3 * max(14, height // 12)
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    page = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + room + margin) + margin), _PAPER)
    draw = ImageDraw.Draw(page)
    for index, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        x, y = margin + (index % columns) * (width + margin), margin + (index // columns) * (height + room + margin)
        page.paste(Image.fromarray(frame.numpy()), (x, y))
        text = "\n".join(_lines(f"{index + 1}. {caption}", font, width)[:3])
        draw.multiline_text((x, y + height + 4), text, fill=_INK, font=font, spacing=2)
    return torch.from_numpy(np.asarray(page).copy())


def _lines(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
