"""Resumable evaluation: variants one by one, examples sharded over ranks, outcomes gathered in order."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from triptych.distributed import World
from triptych.files import write_atomically

OutcomeT = TypeVar("OutcomeT")


class FinishedVariant(NamedTuple):
    """One variant whose outcomes are complete.

    Attributes:
        step: 1-based index of the variant.
        name: name of the variant.
        outcomes: plain JSON values, equal on all ranks.
        seconds: of its evaluation; None if it was restored from a checkpoint.
    """

    step: int
    name: str
    outcomes: Any
    seconds: float | None


class EvaluationRunner:
    """Evaluates variants one by one; a component of the checkpoint, so that an evaluation resumes with the first unfinished one.

    Args:
        world: the processes of the evaluation.

    Attributes:
        outcomes: by name of the variant, plain JSON values.
    """

    def __init__(self, world: World) -> None:
        self.outcomes: dict[str, Any] = {}
        self._world = world

    def evaluate(self, names: Sequence[str], evaluate: Callable[[str], Any]) -> Iterator[FinishedVariant]:
        """The variants in order, each when its outcomes are complete; save a checkpoint after each with `seconds`.

        Args:
            names: names of the variants.
            evaluate: outcomes of a variant as plain JSON values, equal on all ranks; called on all of them.
        """
        for step, name in enumerate(names, start=1):
            if name in self.outcomes:
                yield FinishedVariant(step, name, self.outcomes[name], None)
                continue
            started = time.perf_counter()
            self.outcomes[name] = evaluate(name)
            yield FinishedVariant(step, name, self.outcomes[name], time.perf_counter() - started)

    def save(self, directory: Path) -> None:
        """Writes all outcomes into `directory`."""
        if self._world.is_main:
            write_atomically(directory / "outcomes.json", json.dumps(self.outcomes))

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        self.outcomes = json.loads((directory / "outcomes.json").read_text())


def evaluate_sharded(count: int, evaluate: Callable[[range], Sequence[OutcomeT]], world: World) -> list[OutcomeT]:
    """Outcomes of `count` examples in order, on every rank.

    Args:
        count: number of examples.
        evaluate: outcomes of the examples of a shard, one per example; not called for an empty shard.
        world: the processes among which the examples are divided.
    """
    shard = world.shard(count)
    return world.gather_objects(list(evaluate(shard)) if len(shard) else [])
