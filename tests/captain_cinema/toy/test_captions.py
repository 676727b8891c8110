"""The grammar of captions: parsing, defaults and refusals."""

import pytest
import torch

from captain_cinema.toy.captions import CAPTION_FIELDS, VOCABULARY_SIZES, Caption, caption_indices, parse_caption
from captain_cinema.toy.rendering import (
    SETTING_VALUES,
    Identity,
    Setting,
)
from triptych.errors import UserError


def test_parsing_inverts_the_text_of_a_caption() -> None:
    look, setting = Identity("blue", "circle", "none", "bar"), Setting(SETTING_VALUES[0][0], "moss", "none")
    caption = Caption("ada", "attic", "wide", "left", "red", "walk left").described(look, setting)
    assert parse_caption(caption.text) == caption
    indices = caption_indices([caption])
    assert indices.shape == (1, len(CAPTION_FIELDS))
    assert (indices < torch.tensor(VOCABULARY_SIZES)).all()
    assert (indices > 0).all()


def test_an_unset_box_or_action_is_none_or_still() -> None:
    full, short = Caption("ada", "attic", "wide", "left", "none", "still"), parse_caption("ada in the attic, wide shot, on the left")
    assert full.text == "ada in the attic, wide shot, on the left"
    assert torch.equal(caption_indices([full]), caption_indices([short]))
    assert caption_indices([short])[0, CAPTION_FIELDS.index("colour")] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ada in the attic with a dragon", "has 'dragon', which is not in the vocabulary of tiny cinema"),
        ("ada and bo", "has both ada and bo as name"),
        ("ада", "has 'ада'"),
    ],
)
def test_a_caption_outside_the_grammar_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_caption(text)
