"""Page of an evaluation: the table holds every strategy, families are curves, fractions run from 0 to 1."""

from collections.abc import Sequence
from typing import Any

import torch

from tts_var.data import Agreement, BenchmarkPrompt
from tts_var.report.evaluation_page import COLUMNS, at_equal_compute, evaluation_report, figures, table

CATEGORIES = ("one", "two")


def row(score: float, num_samples: int, tflops: float, **more: Any) -> dict[str, Any]:
    return {
        "score": score, "interval": [score - 0.1, score + 0.1], "num_samples": num_samples, "tflops": tflops, "seconds": 0.5,
        "any_correct": 1.0, "diversity": None, "categories": {"one": 0.25, "two": 1.0}, **more,
    }  # fmt: skip


class Scored:
    """A benchmark without prompts."""

    categories = CATEGORIES
    image_size = None

    def __init__(self, agreement: Agreement | None) -> None:
        self.agreement = agreement

    def prompts(self, count: int, *, seed: int) -> list[BenchmarkPrompt]:
        return []

    def score(self, images: torch.Tensor, prompts: Sequence[BenchmarkPrompt]) -> torch.Tensor:
        return torch.zeros(len(images))


STRATEGIES = {
    "single": row(0.5, 1, 1e-3),
    "best_of_4": row(0.7, 4, 4e-3, diversity=1.5, over_single={"mean": 0.2, "low": 0.1, "high": 0.3}),
    "ours_4": row(0.8, 4, 3e-3),
}
BEST_OF_N = ["single", "best_of_4"]


def test_the_table_has_a_row_per_strategy_and_a_column_per_category() -> None:
    columns, rows = table(STRATEGIES, CATEGORIES)
    assert columns == (*COLUMNS, *CATEGORIES)
    assert [cells[0] for cells in rows] == list(STRATEGIES)
    assert rows[1] == (
        "best_of_4", "70.0 % [60.0, 80.0]", "4", "4.00", "0.500", "100.0 %", "1.500", "+20.0 [+10.0, +30.0]", "", "", "25 %", "100 %",
    )  # fmt: skip


def test_strategies_without_events_are_one_curve_in_order_of_the_axis() -> None:
    over_images, over_compute = figures(STRATEGIES, BEST_OF_N, [], 0.95)
    assert set(over_images.series) == {"Best-of-N", "ours"}
    assert [point[:2] for point in over_images.series["Best-of-N"]] == [(1.0, 0.5), (4.0, 0.7)]
    assert [point[0] for point in over_compute.series["Best-of-N"]] == [1.0, 4.0]  # GFLOP of 1e-3 and 4e-3 TFLOP
    assert over_images.bounds == (0, 1)


def test_the_rank_correlation_has_a_chart_of_its_own() -> None:
    assert figures(STRATEGIES, BEST_OF_N, [0.5, 1.0], 0.95)[-1].series == {"Spearman": [(0, 0.5), (1, 1.0)]}
    page = evaluation_report("run", STRATEGIES, BEST_OF_N, Scored(None), sizes=(3, 1), correlation=[], confidence=0.95)
    assert page.notes[-1] == "The agreement of this score with human labels was not measured."
    assert page.headline == {"prompts": "3", "seeds": "1", "best": "ours_4"}
    assert len(page.figures) == 2


def test_a_comparison_at_equal_compute_names_its_baseline_and_what_it_can_detect() -> None:
    comparison = {"mean": 0.02, "low": -0.01, "high": 0.05, "baseline": "best_of_2", "detectable": 0.03, "flops_ratio": 1.04}
    assert at_equal_compute(comparison) == "+2.0 [-1.0, +5.0] / 3.0 to best_of_2 at 1.04 x"
    assert at_equal_compute({**comparison, "detectable": None}) == "+2.0 [-1.0, +5.0] to best_of_2 at 1.04 x"
    assert at_equal_compute(None) == ""


def test_the_agreement_with_labels_stands_beside_the_scores() -> None:
    agreement = Agreement(100, 98, 50, 50, source="some images")
    page = evaluation_report("r", STRATEGIES, BEST_OF_N, Scored(agreement), sizes=(3, 1), correlation=[], confidence=0.95)
    # Wilson: 98 of 100 is [.930, .994], 50 of 50 is [1 / (1 + 1.96^2 / 50), 1].
    assert "98.0 % [93.0, 99.4] of the right ones (sensitivity)" in page.notes[-1]
    assert "100.0 % [92.9, 100.0] of the wrong ones (specificity)" in page.notes[-1]
    assert "150 pairs of image and prompt (some images)" in page.notes[-1]
