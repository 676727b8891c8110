"""Prompts of the small world: parsing, near misses, held-out prompts and refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import UserError
from tts_var.toy.prompts import CATEGORIES, COMPOSITION, VOCABULARY, evaluation_prompts, near_miss, parse_prompt, sample_prompt
from tts_var.toy.rendering import training_pair

EVERY_CATEGORY = (*CATEGORIES, COMPOSITION)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.sampled_from(EVERY_CATEGORY), st.integers(0, 10_000))
def test_the_text_of_a_prompt_parses_to_the_prompt(category: str, seed: int) -> None:
    prompt = sample_prompt(category, generator=stream(seed))
    assert prompt.category == category
    assert parse_prompt(prompt.text) == prompt
    assert set(prompt.text.split()) <= set(VOCABULARY)


@given(st.sampled_from(EVERY_CATEGORY), st.integers(0, 10_000))
def test_a_near_miss_is_another_prompt(category: str, seed: int) -> None:
    prompt = sample_prompt(category, generator=stream(seed))
    wrong = near_miss(prompt, generator=stream(seed + 1))
    assert wrong.text != prompt.text
    assert parse_prompt(wrong.text) == wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a pink circle", "outside the small world's vocabulary \\(pink\\): use a, an"),
        ("circle", "unclear number of 'circle'"),
        ("two circle", "unclear number of 'circle'"),
        ("a red", "lacks a shape"),
        ("a circle left a square", "is not of the form"),
        ("three circles and two squares", "has 5 objects"),
        ("a circle " * 9, "at most 16"),
        ("a circle and a red circle", "one object could match"),
        ("two red rings above a red ring", "one object could match"),
    ],
)
def test_invalid_prompts_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_prompt(text)
    assert "\n" not in str(caught.value)


def test_training_has_no_held_out_prompt() -> None:
    training = {training_pair(index, seed=0)[0].text for index in range(3000)}
    evaluation = evaluation_prompts(300, seed=0)
    held_out = [prompt for prompt in evaluation if prompt.category in ("two_objects", "position", "attribute_binding")]
    assert len(held_out) == 150
    assert all(prompt.held_out for prompt in held_out)
    assert not training & {prompt.text for prompt in held_out}
    assert [prompt.category for prompt in evaluation[:6]] == list(CATEGORIES)
