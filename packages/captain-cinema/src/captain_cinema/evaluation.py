"""Contracts of evaluations: a probe after training, and a benchmark of memories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.models import KeyframeModel
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from captain_cinema.video import VideoGenerator
from triptych.distributed import World
from triptych.report import ReportConfig


class ProbeResult(NamedTuple):
    """Result of a probe.

    Attributes:
        summary: added to the summary of the training.
        headline: the main numbers by label.
    """

    summary: dict[str, Any]
    headline: dict[str, float]


class Probe(Protocol):
    """Contract of probes: accuracy of a trained keyframe model with its memories.

    Attributes:
        memories: names of the memories that it compares.
    """

    memories: Sequence[str]

    def __call__(self, model: KeyframeModel, memories: Mapping[str, MemoryPolicy], sampling: SamplingConfig) -> ProbeResult:
        """Samples with the memories named in `memories`, and logs a line for each."""
        ...


@dataclass(frozen=True)
class Conclusion:
    """Results of an evaluation of all memories.

    Attributes:
        summary: for `summary.json`.
        rows: one per sampled shot, for `outcomes.jsonl`.
        report: the page.
    """

    summary: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]
    report: ReportConfig


class MemoryBenchmark(Protocol):
    """Contract of benchmarks of memories.

    Attributes:
        image_size: height and width of the keyframes that it reads.
    """

    image_size: tuple[int, int]

    def evaluate(self, sampler: KeyframeSampler, *, seed: int, world: World) -> dict[str, Any]:
        """Outcomes of one memory as plain JSON values, the same for every number of ranks; called on all of them."""
        ...

    def metrics(self, outcomes: Mapping[str, Any], *, seed: int) -> dict[str, float]:
        """Metrics of one memory, logged when its evaluation ends."""
        ...

    def evaluate_video(self, video: VideoGenerator, *, seed: int) -> dict[str, float]:
        """Fractions of clips with the right action; empty if the benchmark has no clips or the generator does not animate."""
        ...

    def conclude(self, outcomes: Mapping[str, Mapping[str, Any]], actions: Mapping[str, float], *, seed: int, name: str) -> Conclusion:
        """Summary and page from the outcomes of all memories, by name."""
        ...
