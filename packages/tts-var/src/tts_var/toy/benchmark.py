"""The small world as a benchmark: GenEval's six categories, scored by its verifier."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.errors import UserError
from tts_var.data import Agreement, BenchmarkPrompt
from tts_var.toy.prompts import CATEGORIES, evaluation_prompts, parse_prompt
from tts_var.toy.rendering import IMAGE_SIZE
from tts_var.toy.verifier import check_image

AGREEMENT = Agreement(115, 90, 83, 82, source="generated images of this world")
"""Counts of the verifier on 146 generated images with 198 prompts."""


class SmallWorldBenchmark:
    """Benchmark of held-out combinations, and of single objects, counts and colours, which have no held-out prompts."""

    categories = CATEGORIES
    image_size: int | None = IMAGE_SIZE
    agreement: Agreement | None = AGREEMENT

    def prompts(self, count: int, *, seed: int) -> Sequence[BenchmarkPrompt]:
        """`count` prompts, the six categories in turn; see `Benchmark`."""
        if count < len(CATEGORIES):
            raise UserError(f"evaluation.num_prompts is {count}: use at least {len(CATEGORIES)}, one per category")
        return [BenchmarkPrompt(prompt.text, prompt.category, prompt.held_out) for prompt in evaluation_prompts(count, seed=seed)]

    def score(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[BenchmarkPrompt]) -> Float[Tensor, " rows"]:
        """1 if every part of the prompt holds, else 0; see `Benchmark`."""
        return torch.tensor(
            [float(check_image(image.cpu(), parse_prompt(prompt.text)).correct) for image, prompt in zip(images, prompts, strict=True)]
        )
