"""Rendered frames: every detail is visible."""

import torch

from captain_cinema.toy.rendering import (
    Scene,
)
from captain_cinema.toy.verifier import IDENTITIES, SETTINGS, every_identity


def test_every_detail_changes_the_frame() -> None:
    base = Scene(IDENTITIES[0], SETTINGS[0], "wide", "left", "none")
    frames = every_identity(base)
    assert len(frames) == len(IDENTITIES) == 384
    assert torch.cdist(frames.flatten(1), frames.flatten(1)).fill_diagonal_(9).min() > 0.1
