"""The contracts of captioned images and of benchmarks, tested for each implementation."""

from importlib.util import find_spec

import pytest
import torch

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data import Benchmark, CaptionedImages

if find_spec("tts_var.toy") is None:
    pytest.skip("tts_var.toy is absent, which has the only training data and benchmark", allow_module_level=True)

from tts_var.toy.benchmark import SmallWorldBenchmark
from tts_var.toy.dataset import SmallWorld

DATA = pytest.mark.parametrize("data", [SmallWorld(20)], ids=["small_world"])
BENCHMARKS = pytest.mark.parametrize("benchmark", [SmallWorldBenchmark()], ids=["small_world"])


@DATA
def test_an_example_depends_on_its_index_only(data: CaptionedImages) -> None:
    together, alone = data.examples([3, 1, 3]), data.examples([1])
    assert together.images.shape == (3, 3, data.image_size, data.image_size)
    assert together.images.dtype == torch.float32
    assert together.images.abs().max() <= 1
    assert torch.equal(together.images[0], together.images[2])
    assert torch.equal(together.images[1], alone.images[0])
    assert together.prompts[1] == alone.prompts[0]


@DATA
def test_a_near_miss_is_another_prompt_and_a_function_of_the_stream(data: CaptionedImages) -> None:
    for prompt in data.examples(range(10)).prompts:
        found = data.near_miss(prompt, generator=generator(0, prompt))
        assert found != prompt
        assert found == data.near_miss(prompt, generator=generator(0, prompt))


@BENCHMARKS
def test_every_category_has_prompts_and_scores_are_between_0_and_1(benchmark: Benchmark) -> None:
    count = 2 * len(benchmark.categories)
    prompts = benchmark.prompts(count, seed=1)
    assert len(prompts) == count
    assert {prompt.category for prompt in prompts} == set(benchmark.categories)
    assert prompts == benchmark.prompts(count, seed=1)
    side = benchmark.image_size or 64
    scores = benchmark.score(torch.zeros(count, 3, side, side), prompts)
    assert scores.shape == (count,)
    assert scores.min() >= 0
    assert scores.max() <= 1
    with pytest.raises(UserError, match="num_prompts is 1"):
        benchmark.prompts(1, seed=1)
