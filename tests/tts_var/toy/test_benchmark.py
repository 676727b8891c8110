"""The small world as a benchmark: prompts by category, and scores of rendered scenes."""

import pytest
import torch

from triptych.errors import UserError
from tts_var.data import BenchmarkPrompt
from tts_var.toy.benchmark import SmallWorldBenchmark
from tts_var.toy.prompts import CATEGORIES, parse_prompt
from tts_var.toy.rendering import SceneObject, render_scenes, sample_scene

BENCHMARK = SmallWorldBenchmark()


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_prompts_have_the_categories_in_turn_and_held_out_combinations() -> None:
    prompts = BENCHMARK.prompts(18, seed=0)
    assert [prompt.category for prompt in prompts] == list(CATEGORIES) * 3
    for prompt in prompts:
        assert parse_prompt(prompt.text).category == prompt.category
        assert prompt.held_out == (prompt.category in ("two_objects", "position", "attribute_binding"))


def test_prompts_are_a_function_of_the_seed_and_fewer_are_a_prefix() -> None:
    assert BENCHMARK.prompts(12, seed=3) == BENCHMARK.prompts(18, seed=3)[:12]
    assert BENCHMARK.prompts(18, seed=3) != BENCHMARK.prompts(18, seed=4)


def test_scenes_of_the_prompts_score_one_and_an_empty_image_zero() -> None:
    prompts = BENCHMARK.prompts(12, seed=0)
    scenes = [sample_scene(parse_prompt(prompt.text), generator=stream(index)) for index, prompt in enumerate(prompts)]
    assert BENCHMARK.score(render_scenes(scenes, generator=stream()), prompts).tolist() == [1.0] * 12
    assert BENCHMARK.score(torch.full((12, 3, 64, 64), 0.3), prompts).tolist() == [0.0] * 12


def test_one_missing_part_is_a_score_of_zero() -> None:
    scene = [SceneObject("circle", "red", 16, 32, 8), SceneObject("square", "blue", 48, 32, 8)]
    images = render_scenes([scene] * 3, generator=stream())
    texts = ["a red circle left of a blue square", "a red circle right of a blue square", "a red circle and a green square"]
    prompts = [BenchmarkPrompt(text, "composition") for text in texts]
    assert BENCHMARK.score(images, prompts).tolist() == [1.0, 0.0, 0.0]


def test_fewer_prompts_than_categories_are_refused() -> None:
    assert len(BENCHMARK.prompts(6, seed=0)) == 6
    with pytest.raises(UserError, match="evaluation.num_prompts is 5: use at least 6, one per category"):
        BENCHMARK.prompts(5, seed=0)
