"""Page of an evaluation of search strategies: score over N and over compute, and a table per strategy."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from triptych.evaluation.statistics import Interval
from triptych.report import Figure, ReportConfig, Samples
from tts_var.data import Benchmark

NOTES = (
    "The score is the fraction of prompts whose chosen image fulfils every part, over all prompts and seeds. 'Any final image' is the "
    "score of an oracle that chooses among the final images.",
    "Intervals resample the prompts of this benchmark; a category of few texts repeats them under many seeds.",
    "'At equal compute' is the difference to the Best-of-N whose operations are within 15 %; the number after the slash is the smallest "
    "difference, in points, that the comparison detects with a probability of 80 %.",
)

COLUMNS = (
    *("strategy", "score", "final images", "GFLOP", "seconds", "any final image", "diversity"),
    *("over a single sample", "over Best-of-N", "at equal compute"),
)


def evaluation_report(
    name: str,
    strategies: Mapping[str, Mapping[str, Any]],
    best_of_n: Collection[str],
    benchmark: Benchmark,
    *,
    sizes: tuple[int, int],
    correlation: Sequence[float],
    confidence: float,
) -> ReportConfig:
    """Contents of the report page.

    Args:
        name: name of the run.
        strategies: result of `summarize`.
        best_of_n: names of the strategies without events.
        benchmark: source of the prompts and of the score.
        sizes: numbers of prompts and of seeds.
        correlation: rank correlation at each scale; empty for none.
        confidence: level of the intervals.
    """
    best = max(strategies, key=lambda strategy: float(strategies[strategy]["score"]))
    columns, rows = table(strategies, benchmark.categories)
    return ReportConfig(
        title=f"Search strategies: {name}",
        headline={"prompts": str(sizes[0]), "seeds": str(sizes[1]), "best": best},
        notes=(*NOTES, _agreement(benchmark)),
        figures=figures(strategies, best_of_n, correlation, confidence),
        samples=[Samples("Strategies, per prompt", columns, rows)],
    )


def _agreement(benchmark: Benchmark) -> str:
    return benchmark.agreement.text if benchmark.agreement else "The agreement of this score with human labels was not measured."


def table(strategies: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the strategies."""
    rows = [
        (
            name,
            Interval(row["score"], *row["interval"]).percent(),
            str(row["num_samples"]),
            f"{1e3 * row['tflops']:.2f}",
            f"{row['seconds']:.3f}",
            f"{100 * row['any_correct']:.1f} %",
            "" if row["diversity"] is None else f"{row['diversity']:.3f}",
            points(row.get("over_single")),
            points(row.get("over_best_of")),
            at_equal_compute(row.get("over_equal_compute")),
            *(f"{100 * row['categories'][category]:.0f} %" for category in categories),
        )
        for name, row in strategies.items()
    ]
    return (*COLUMNS, *categories), rows


def figures(
    strategies: Mapping[str, Mapping[str, Any]], best_of_n: Collection[str], correlation: Sequence[float], confidence: float
) -> list[Figure]:
    """Score over the number of final images and over compute; and the rank correlation over scales, if there is one."""
    # Strategies without events are one family, Best-of-N; each of the others is a point or, with its variants in N, a curve.
    families: dict[str, list[str]] = {}
    for name, row in strategies.items():
        family = "Best-of-N" if name in best_of_n else name.removesuffix(f"_{row['num_samples']}")
        families.setdefault(family, []).append(name)
    found = [
        Figure(
            "Prompts fulfilled",
            over,
            {
                family: sorted((factor * strategies[name][key], strategies[name]["score"], *strategies[name]["interval"]) for name in names)
                for family, names in families.items()
            },
            f"fraction of prompts, {confidence:.0%} intervals",
            (0, 1),
        )
        for over, key, factor in (("final images N", "num_samples", 1.0), ("GFLOP per prompt", "tflops", 1e3))
    ]
    if correlation:
        found.append(Figure("Rank correlation with the final reward", "scale", {"Spearman": list(enumerate(correlation))}))
    return found


def at_equal_compute(comparison: Mapping[str, Any] | None) -> str:
    """A paired difference to the Best-of-N of equal compute, with that baseline and the detectable difference."""
    if comparison is None:
        return ""
    detectable = comparison["detectable"]
    power = "" if detectable is None else f" / {100 * detectable:.1f}"
    return f"{points(comparison)}{power} to {comparison['baseline']} at {comparison['flops_ratio']:.2f} x"


def points(interval: Mapping[str, float] | None) -> str:
    """A paired difference with its interval, in points."""
    if interval is None:
        return ""
    return f"{100 * interval['mean']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"
