"""Rendered scenes fulfil their prompts."""

import torch

from tts_var.toy.prompts import CATEGORIES, COMPOSITION, sample_prompt
from tts_var.toy.rendering import RELATION_PIXELS, holds, render_scenes, sample_scene
from tts_var.toy.verifier import check_image

EVERY_CATEGORY = (*CATEGORIES, COMPOSITION)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_relations_need_the_margin_and_y_increases_downwards() -> None:
    assert holds("left of", 10, 0, 10 + RELATION_PIXELS, 0, margin=RELATION_PIXELS)
    assert not holds("left of", 10, 0, 9 + RELATION_PIXELS, 0, margin=RELATION_PIXELS)
    assert holds("above", 0, 10, 0, 30, margin=RELATION_PIXELS)  # y increases downwards


def test_scenes_fulfil_their_prompt_for_every_category() -> None:
    for category in EVERY_CATEGORY:
        for seed in range(10):
            prompt = sample_prompt(category, generator=stream(seed))
            scene = sample_scene(prompt, generator=stream(seed))
            assert check_image(render_scenes([scene], generator=stream(seed))[0], prompt).correct, prompt.text
