"""The evaluation runner: resumed after the last complete variant, and the same outcomes from any number of ranks."""

from pathlib import Path

from triptych.distributed import World
from triptych.evaluation.runner import EvaluationRunner, evaluate_sharded
from triptych.testing import run_distributed


def test_an_evaluation_resumes_with_the_first_variant_without_outcomes(tmp_path: Path) -> None:
    calls: list[str] = []

    def evaluate(name: str) -> list[str]:
        calls.append(name)
        return [name.upper()]

    first = EvaluationRunner(World())
    for finished in first.evaluate(["a", "b", "c"], evaluate):
        first.save(tmp_path)
        if finished.name == "b":
            break
    resumed = EvaluationRunner(World())
    resumed.load(tmp_path)
    found = list(resumed.evaluate(["a", "b", "c"], evaluate))
    assert calls == ["a", "b", "c"]
    assert [(item.step, item.name, item.outcomes) for item in found] == [(1, "a", ["A"]), (2, "b", ["B"]), (3, "c", ["C"])]
    assert [item.seconds is None for item in found] == [True, True, False], "restored variants took no time"
    assert resumed.outcomes == {"a": ["A"], "b": ["B"], "c": ["C"]}


def _squares(world: World, count: int) -> list[int]:
    def evaluate(shard: range) -> list[int]:
        assert len(shard), "an empty shard is not evaluated"
        return [index * index for index in shard]

    return evaluate_sharded(count, evaluate, world)


def test_outcomes_are_in_order_whatever_the_number_of_ranks() -> None:
    assert _squares(World(), 5) == [0, 1, 4, 9, 16]
    for count in (1, 5):
        expected = [index * index for index in range(count)]
        assert run_distributed(_squares, world_size=2, args=(count,)) == [expected, expected]
