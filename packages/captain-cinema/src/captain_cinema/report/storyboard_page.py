"""`storyboard.html`: the film shot by shot, with the memory of every shot; one page without a script or an outside resource."""

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch.nn import functional

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.images import encode_image, to_bytes
from captain_cinema.sampling import Keyframe, Reference, Remembered
from triptych.report.page import environment, png_uri

_THUMBNAIL = 72


class _Memory(NamedTuple):
    """One remembered frame: a thumbnail whose size on the page is in proportion to the size that was kept."""

    uri: str
    label: str
    side: int
    tokens: str


class _Row(NamedTuple):
    """One shot."""

    number: int
    uri: str
    clip: str | None
    caption: str
    tags: list[str]
    seconds: str
    cost: str
    note: str
    verdict: list[tuple[str, bool]]
    memory: list[_Memory]


def render_storyboard_page(
    storyboard: Storyboard,
    keyframes: Sequence[Keyframe],
    *,
    clips: Sequence[bytes | None],
    verdicts: Sequence[Mapping[str, bool]],
    references: Sequence[Reference] = (),
    patch: int,
    settings: Mapping[str, str],
) -> str:
    """The page as HTML; text of the user is escaped.

    Args:
        storyboard: captions and tags.
        keyframes: one per shot.
        clips: mp4 files of the shots as bytes; None for a shot without one.
        verdicts: for each shot, detail -> whether it is right; empty without a verifier.
        references: frames that the user supplied.
        patch: pixels per side of a token.
        settings: rows of the table of settings.
    """
    rows = []
    for number, (shot, keyframe, clip, verdict) in enumerate(zip(storyboard.shots, keyframes, clips, verdicts, strict=True), start=1):
        rows.append(
            _Row(
                number=number,
                uri=png_uri(encode_image(to_bytes(keyframe.frame[None])[0])),
                clip=None if clip is None else "data:video/mp4;base64," + base64.b64encode(clip).decode(),
                caption=shot.caption,
                tags=list(shot.tags),
                seconds=f"{shot.seconds:g} s",
                cost=f"{keyframe.tokens} tokens, {keyframe.seconds:.2f} s" if keyframe.tokens else "kept unchanged",
                note=keyframe.note,
                verdict=list(verdict.items()),
                memory=[_memory(kept, keyframes, references, patch) for kept in keyframe.remembered],
            )
        )
    return (
        environment("captain_cinema")
        .get_template("storyboard.html")
        .render(
            title=storyboard.title,
            rows=rows,
            characters=dict(storyboard.characters),
            places=dict(storyboard.places),
            settings=dict(settings),
        )
    )


def _memory(kept: Remembered, keyframes: Sequence[Keyframe], references: Sequence[Reference], patch: int) -> _Memory:
    """A remembered frame, shrunk to the size of its tokens; its thumbnail is in proportion to that size."""
    source = keyframes[kept.source].frame if kept.source >= 0 else references[-1 - kept.source].frame
    rows, columns = kept.grid
    small = functional.interpolate(source[None].float().cpu(), (rows * patch, columns * patch), mode="area")
    label = f"shot {kept.source + 1}" if kept.source >= 0 else f"reference {-kept.source}"
    side = max(10, round(_THUMBNAIL * rows * patch / source.shape[-2]))
    return _Memory(png_uri(encode_image(to_bytes(small)[0])), label, side, f"{rows} x {columns} tokens")
