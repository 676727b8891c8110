"""Page of an evaluation: the table holds every strategy, families are curves, fractions run from 0 to 1."""

from typing import Any

from tts_var.report.evaluation_page import COLUMNS, evaluation_report, figures, table

CATEGORIES = ("one", "two")


def row(score: float, num_samples: int, tflops: float, **more: Any) -> dict[str, Any]:
    return {
        "score": score, "interval": [score - 0.1, score + 0.1], "num_samples": num_samples, "tflops": tflops, "seconds": 0.5,
        "any_correct": 1.0, "diversity": None, "categories": {"one": 0.25, "two": 1.0}, **more,
    }  # fmt: skip


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
        "best_of_4", "70.0 % [60.0, 80.0]", "4", "4.00", "0.500", "100.0 %", "1.500", "+20.0 [+10.0, +30.0]", "", "25 %", "100 %",
    )  # fmt: skip


def test_strategies_without_events_are_one_curve_in_order_of_the_axis() -> None:
    over_images, over_compute = figures(STRATEGIES, BEST_OF_N, [], 0.95)
    assert set(over_images.series) == {"Best-of-N", "ours"}
    assert [point[:2] for point in over_images.series["Best-of-N"]] == [(1.0, 0.5), (4.0, 0.7)]
    assert [point[0] for point in over_compute.series["Best-of-N"]] == [1.0, 4.0]  # GFLOP of 1e-3 and 4e-3 TFLOP
    assert over_images.bounds == (0, 1)


def test_the_rank_correlation_has_a_chart_of_its_own() -> None:
    assert figures(STRATEGIES, BEST_OF_N, [0.5, 1.0], 0.95)[-1].series == {"Spearman": [(0, 0.5), (1, 1.0)]}
    page = evaluation_report("run", STRATEGIES, BEST_OF_N, CATEGORIES, sizes=(3, 1), correlation=[], confidence=0.95)
    assert page.headline == {"prompts": "3", "seeds": "1", "best": "ours_4"}
    assert len(page.figures) == 2
