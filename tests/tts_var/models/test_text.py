"""The contract of text encoders, tested for each implementation."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch

from triptych.errors import UserError
from tts_var.models.text import TextFeatures, TrainableTextEncoder
from tts_var.testing import CharacterEncoder

PROMPTS = ["a red circle", "two squares"]


def word_encoder() -> TrainableTextEncoder:
    from tts_var.toy.text import WordEncoder

    return WordEncoder(16, num_layers=2)


ENCODERS = [
    CharacterEncoder,
    pytest.param(word_encoder, marks=pytest.mark.skipif(find_spec("tts_var.toy") is None, reason="tts_var.toy is absent")),
]


@pytest.mark.parametrize("build", ENCODERS)
def test_features_are_those_of_the_tokens_with_gradient(build: Callable[[], TrainableTextEncoder]) -> None:
    torch.manual_seed(0)
    encoder = build()
    tokens = encoder.tokenize(PROMPTS)
    assert tokens.shape == (2, encoder.num_tokens)
    assert tokens.device.type == "cpu"
    features, trained = encoder.encode(PROMPTS), encoder(tokens)
    assert isinstance(features, TextFeatures)
    assert features.values.shape[:2] == features.mask.shape == tokens.shape
    assert features.mask.dtype == torch.bool
    assert trained.values.requires_grad
    # The same weights and inputs: float32 rounding at most.
    torch.testing.assert_close(features.values, trained.values)


@pytest.mark.parametrize("build", ENCODERS)
def test_features_of_a_prompt_do_not_depend_on_the_batch(build: Callable[[], TrainableTextEncoder]) -> None:
    torch.manual_seed(0)
    encoder = build()
    with torch.no_grad():
        together, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[1:])
    torch.testing.assert_close(together.values[1], alone.values[0], atol=1e-5, rtol=1e-5)  # another batch shape, float32
    assert float((together.values[0] - together.values[1]).abs().max()) > 0.1


@pytest.mark.parametrize("build", ENCODERS)
def test_an_empty_prompt_is_refused_before_encoding(build: Callable[[], TrainableTextEncoder]) -> None:
    encoder = build()
    encoder.check(PROMPTS)
    for refuse in (encoder.check, encoder.tokenize):
        with pytest.raises(UserError, match="a prompt is empty"):
            refuse([*PROMPTS, ""])
