"""Words of the small world: indices, padding, and features of the text encoder."""

import pytest
import torch

from triptych.errors import UserError
from tts_var.toy.prompts import MAX_WORDS, VOCABULARY
from tts_var.toy.text import WordEncoder, word_indices


def test_indices_are_positions_in_the_vocabulary_from_1() -> None:
    indices, mask = word_indices(["a red circle", "Two squares."])
    expected = [[VOCABULARY.index(word) + 1 for word in prompt] for prompt in (["a", "red", "circle"], ["two", "squares"])]
    assert indices.tolist() == [expected[0], [*expected[1], 0]]
    assert mask.tolist() == [[True] * 3, [True, True, False]]


def test_indices_are_padded_to_the_given_length() -> None:
    indices, mask = word_indices(["a circle"], length=5)
    assert indices.shape == (1, 5)
    assert mask.sum() == 2
    assert WordEncoder(16).tokenize(["a circle"]).shape == (1, MAX_WORDS)


def test_without_layers_features_are_word_plus_position() -> None:
    encoder = WordEncoder(8, num_layers=0)
    features = encoder.encode(["a circle"])
    words = [VOCABULARY.index("a") + 1, VOCABULARY.index("circle") + 1] + [0] * (MAX_WORDS - 2)
    assert torch.equal(features.values[0], torch.stack([encoder.words.weight[word] for word in words]) + encoder.positions)


@torch.no_grad()
def test_padding_is_attended_to_so_that_the_mask_does_not_leak_the_length() -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(16, num_layers=1).eval()
    short, long = encoder.encode(["a circle"]), encoder.encode(["two red circles left of a blue square"])
    assert torch.equal(short.mask, long.mask)
    assert short.mask.all()
    # A change of the padding embedding reaches the first word.
    encoder.words.weight[0] *= -1  # a constant would vanish in the layer norm
    assert float((encoder.encode(["a circle"]).values[0, 0] - short.values[0, 0]).abs().max()) > 1e-3


@torch.no_grad()
def test_the_order_of_the_words_matters() -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(16, num_layers=2).eval()
    first, second = encoder.encode(["a circle above a ring", "a ring above a circle"]).values
    assert float((first - second).abs().max()) > 0.1


@pytest.mark.parametrize(("prompt", "message"), [("a pink circle", "pink"), ("", "empty"), ("a circle " * 9, "at most 16")])
def test_invalid_prompts_are_refused_before_encoding(prompt: str, message: str) -> None:
    encoder = WordEncoder(8, num_layers=0)
    for refuse in (encoder.check, encoder.tokenize, encoder.encode):
        with pytest.raises(UserError, match=message):
            refuse(["a circle", prompt])
