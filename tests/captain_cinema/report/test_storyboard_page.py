"""The page of a film: escaped user text and no external resources."""

from pathlib import Path

import torch

from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.report.storyboard_page import render_storyboard_page
from captain_cinema.sampling import Keyframe, Remembered


def frames(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_page_escapes_user_text_and_has_no_external_resources(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    board = Storyboard(evil, {evil: evil}, {"attic": '"><img src=x>'}, (Shot(evil, (evil,), "attic"), Shot("two", (evil,))), 0)
    keyframes = [Keyframe(frames(1)[0], (), 69), Keyframe(frames(1)[0], (Remembered(0, (4, 4)),), 90, 0.1, "a note")]
    page = render_storyboard_page(
        board, keyframes, clips=[b"mp4", None], verdicts=[{"colour": True}, {}], patch=8, settings={"memory": evil}
    )
    assert "<script" not in page
    assert "<img src=x>" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:video/mp4;base64,") == 1
    assert page.count("data:image/png;base64,") == 3
    for text in ("shot 1", "4 x 4 tokens", "a note"):
        assert text in page
