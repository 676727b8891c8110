"""What trains and what is evaluated: contracts of captioned pictures and of benchmarks, and prompt files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Examples(NamedTuple):
    """A batch of training examples.

    Attributes:
        prompts: one text per picture.
        images: (batch, 3, height, width) in [-1, 1], float32.
    """

    prompts: list[str]
    images: Float[Tensor, "batch 3 height width"]


class CaptionedImages(Protocol):
    """Contract of training data: captioned pictures by index.

    Attributes:
        num_examples: size of the training set.
        image_size: pixels per side.
    """

    num_examples: int
    image_size: int

    def examples(self, indices: Sequence[int]) -> Examples:
        """The examples of the given indices; each depends on its own index alone."""
        ...

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        """A prompt that is wrong for the picture of `prompt` in one detail: a hard negative for a reward."""
        ...


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt of a benchmark.

    Attributes:
        text: what the generator is given.
        category: one of the benchmark's categories.
        held_out: whether training never saw it; None where nobody can tell.
    """

    text: str
    category: str
    held_out: bool | None = None


class Benchmark(Protocol):
    """Contract of benchmarks: prompts with categories, and what a picture scores.

    Attributes:
        categories: in the order in which they are reported.
        image_size: pixels per side that it scores; None for any.
    """

    categories: tuple[str, ...]
    image_size: int | None

    def prompts(self, count: int, *, seed: int) -> Sequence[BenchmarkPrompt]:
        """`count` prompts.

        Raises:
            UserError: if there are not so many, or too few for all categories.
        """
        ...

    def score(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[BenchmarkPrompt]) -> Float[Tensor, " rows"]:
        """1 where a picture in [0, 1] fulfils its prompt, less otherwise."""
        ...
