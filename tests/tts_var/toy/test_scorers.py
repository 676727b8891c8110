"""Scorers of the small world."""

import pytest
import torch

from tts_var.toy.rendering import SceneObject, render_scenes
from tts_var.toy.scorers import VerifierReward


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_verifiers_reward_is_the_fraction_of_the_parts() -> None:
    scene = [SceneObject("circle", "red", 16, 32, 8), SceneObject("square", "blue", 48, 32, 8)]
    images = render_scenes([scene] * 3, generator=stream(0))
    prompts = ["a red circle left of a blue square", "a red circle right of a blue square", "two red circles and a green ring"]
    assert VerifierReward()(images, prompts).tolist() == pytest.approx([1, 2 / 3, 0])
