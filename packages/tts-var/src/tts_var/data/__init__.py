"""Contracts of training data and benchmarks: captioned images by index, prompts with categories and scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.evaluation.statistics import Interval, binomial_interval


class Examples(NamedTuple):
    """A batch of training examples.

    Attributes:
        prompts: one text per image.
        images: (batch, 3, height, width) in [-1, 1], float32.
    """

    prompts: list[str]
    images: Float[Tensor, "batch 3 height width"]


class CaptionedImages(Protocol):
    """Contract of training data: captioned images by index.

    Attributes:
        num_examples: size of the training set.
        image_size: pixels per side.
    """

    num_examples: int
    image_size: int

    def examples(self, indices: Sequence[int]) -> Examples:
        """The examples of the given indices; each depends on its own index only."""
        ...

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        """A prompt that is wrong for the image of `prompt` in one detail: a hard negative for a reward."""
        ...


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt of a benchmark.

    Attributes:
        text: input of the generator.
        category: one of the benchmark's categories.
        held_out: whether the prompt is excluded from training; None if unknown.
    """

    text: str
    category: str
    held_out: bool | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of a benchmark's score with human labels, on generated images that were labelled before they were scored.

    Attributes:
        num_fulfilled: images that fulfil their prompt according to the labels.
        num_accepted: those of them with a score of 1.
        num_failed: images that do not.
        num_rejected: those of them with a lower score.
        source: the labelled images.
    """

    num_fulfilled: int
    num_accepted: int
    num_failed: int
    num_rejected: int
    source: str

    @property
    def sensitivity(self) -> Interval:
        """Fraction of the right images that are accepted, with its 95 % interval."""
        return binomial_interval(self.num_accepted, self.num_fulfilled)

    @property
    def specificity(self) -> Interval:
        """Fraction of the wrong images that are rejected, with its 95 % interval."""
        return binomial_interval(self.num_rejected, self.num_failed)

    @property
    def text(self) -> str:
        """One sentence for reports."""
        return (
            f"Against human labels of {self.num_fulfilled + self.num_failed} pairs of image and prompt ({self.source}) the score accepts "
            f"{self.sensitivity.percent()} of the right ones (sensitivity) and rejects {self.specificity.percent()} of the wrong ones "
            "(specificity)."
        )


class Benchmark(Protocol):
    """Contract of benchmarks: prompts with categories, and scores of images.

    Attributes:
        categories: in the order in which they are reported.
        image_size: pixels per side of the images to score; None for any.
        agreement: agreement of the score with human labels; None if it was not measured.
    """

    categories: tuple[str, ...]
    image_size: int | None
    agreement: Agreement | None

    def prompts(self, count: int, *, seed: int) -> Sequence[BenchmarkPrompt]:
        """`count` prompts.

        Raises:
            UserError: if the benchmark has fewer prompts, or `count` is below the number of categories.
        """
        ...

    def score(self, images: Float[Tensor, "rows 3 height width"], prompts: Sequence[BenchmarkPrompt]) -> Float[Tensor, " rows"]:
        """1 where an image in [0, 1] fulfils its prompt, less otherwise."""
        ...
