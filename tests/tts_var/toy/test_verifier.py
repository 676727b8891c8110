"""The door for checks from outside: a picture and a prompt in, yes or no out."""

import pytest
import torch
from PIL import Image

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.pictures import to_image
from tts_var.toy import verify
from tts_var.toy.drawing import draw_scenes, sample_scene
from tts_var.toy.prompts import near_miss, parse_prompt

PROMPTS = [
    "a red circle",
    "two squares",
    "three green triangles",
    "a blue square and a yellow ring",
    "two red circles left of a blue square",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_drawn_pictures_hold_and_near_misses_do_not_as_tensor_and_as_image(prompt: str) -> None:
    wrong = 0
    for seed in range(10):
        scene = sample_scene(parse_prompt(prompt), generator=generator(seed, prompt))
        picture = draw_scenes([scene], generator=generator(seed, "picture"))[0]
        for image in (picture, to_image(picture), to_image(picture).convert("RGBA")):
            assert verify(image, prompt) is True
        wrong += verify(picture, near_miss(parse_prompt(prompt), generator=generator(seed, "miss")).text)
    assert wrong < 6  # a near miss by a smaller count holds: among two circles there is one


def test_what_cannot_be_read_is_refused() -> None:
    for image in (torch.zeros(3, 32, 32), torch.zeros(1, 64, 64), Image.new("RGB", (64, 60))):
        with pytest.raises(UserError, match="64 x 64"):
            verify(image, "a red circle")
    with pytest.raises(UserError, match="pink"):
        verify(torch.zeros(3, 64, 64), "a pink circle")
