"""The grammar of captions: read back, silent, refused."""

import pytest
import torch

from captain_cinema.toy.captions import CAPTION_FIELDS, VOCABULARY_SIZES, Caption, caption_indices, parse_caption
from captain_cinema.toy.rendering import (
    SETTING_VALUES,
    Identity,
    Setting,
)
from triptych.errors import UserError


def test_captions_are_read_back() -> None:
    look, setting = Identity("blue", "circle", "none", "bar"), Setting(SETTING_VALUES[0][0], "moss", "none")
    caption = Caption("ada", "attic", "wide", "left", "red", "walk left").described(look, setting)
    assert parse_caption(caption.text) == caption
    indices = caption_indices([caption])
    assert indices.shape == (1, len(CAPTION_FIELDS))
    assert (indices < torch.tensor(VOCABULARY_SIZES)).all()
    assert (indices > 0).all()


def test_silence_about_box_and_action_means_none() -> None:
    told, silent = Caption("ada", "attic", "wide", "left", "none", "still"), parse_caption("ada in the attic, wide shot, on the left")
    assert told.text == "ada in the attic, wide shot, on the left"
    assert torch.equal(caption_indices([told]), caption_indices([silent]))
    assert caption_indices([silent])[0, CAPTION_FIELDS.index("colour")] == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ada in the attic with a dragon", "says 'dragon', which tiny cinema does not know"),
        ("ada and bo", "says both"),
        ("ада", "says 'ада'"),
    ],
)
def test_a_caption_of_another_world_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_caption(text)
