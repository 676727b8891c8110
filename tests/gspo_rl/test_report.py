"""Summary and charts of a training, on hand-made evaluations."""

from dataclasses import replace

import pytest

from gspo_rl.evaluation import EvaluationResult, Sample
from gspo_rl.report import ratio_charts, summarize, training_report
from gspo_rl.trainer import FitResult
from triptych.evaluation.statistics import Interval


def evaluation(per_prompt: tuple[float, ...]) -> EvaluationResult:
    mean = sum(per_prompt) / len(per_prompt)
    interval = Interval(mean, 0.0, 1.0)
    return EvaluationResult(interval, interval, {1: interval, 2: Interval(1.0, 1.0, 1.0)}, 5.0, per_prompt, [Sample("1+1=", "2", "2", 1.0)])


RESULT = FitResult(evaluation((0.0, 0.5, 0.5, 1.0)), evaluation((1.0, 0.5, 0.5, 1.0)), 10.0, 1000.0)


def test_the_gain_is_paired_by_prompt() -> None:
    summary = summarize(RESULT, [], seed=0, confidence=0.95)
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (0.5, 0.75)
    assert summary["accuracy_gain"] == pytest.approx(0.25)  # (1 + 0 + 0 + 0) / 4
    low, high = summary["accuracy_gain_interval"]
    assert 0.0 <= low <= 0.25 <= high <= 1.0, "no prompt lost, so no resample has a negative gain"
    assert summary["pass_at_k_after"] == {"1": 0.75, "2": 1.0}
    assert summary["num_prompts"] == 4


def test_the_blind_gain_is_paired_and_absent_where_it_is_not_known() -> None:
    blind = [
        replace(item, blind=item.accuracy, blind_per_prompt=scores)
        for item, scores in zip(RESULT[:2], ((0.0, 0.0), (1.0, 0.0)), strict=True)
    ]
    summary = summarize(RESULT._replace(before=blind[0], after=blind[1]), [], seed=0, confidence=0.95)
    assert (summary["blind_before"], summary["blind_after"], summary["blind_gain"]) == (0.5, 0.75, 0.5)
    assert summarize(RESULT, [], seed=0, confidence=0.95)["blind_gain"] is None


def test_the_move_is_the_median_of_the_last_minibatch() -> None:
    rows = [{}, *({"ratio_clip_widths/minibatch_0": 0.0, "ratio_clip_widths/minibatch_1": move} for move in (1.0, 9.0, 2.0))]
    rows[1]["noise/sampler_clip_widths"] = 0.2
    summary = summarize(RESULT, rows, seed=0, confidence=0.95)
    assert (summary["median_clip_widths"], summary["noise_clip_widths"]) == (2.0, 0.2)
    assert summarize(RESULT, [], seed=0, confidence=0.95)["median_clip_widths"] is None


def test_the_clip_fraction_is_the_mean_over_the_steps_that_have_one() -> None:
    rows = [{"step": 0}, {"step": 1, "clip_fraction/tokens": 0.1}, {"step": 2, "clip_fraction/tokens": 0.3}]
    assert summarize(RESULT, rows, seed=0, confidence=0.95)["clip_fraction_tokens"] == pytest.approx(0.2)
    assert summarize(RESULT, [], seed=0, confidence=0.95)["clip_fraction_tokens"] is None


def test_ratios_are_shown_as_deviation_from_1_in_clip_widths() -> None:
    _, ratio, _ = ratio_charts(4, (3e-4, 4e-4))
    assert ratio.transform is not None
    assert [ratio.transform(value) for value in (1.0, 1 + 4e-4, 1 - 3e-4)] == pytest.approx([0.0, 1.0, -1.0])
    assert list(ratio.series) == [f"ratio/minibatch_3/q{level}" for level in ("05", "50", "95")]
    _, plain, _ = ratio_charts(1, None)
    assert plain.transform is not None
    assert plain.transform(1.25) == 0.25


def test_the_page_holds_accuracies_and_samples() -> None:
    page = training_report("GSPO", "note", RESULT, num_minibatches=2, clip=None)
    assert page.headline["held-out accuracy after"] == "75.0 %"
    assert page.samples[0].rows == [("1+1=", "2", "2\n(reward 1)", "2\n(reward 1)")]
    assert all(chart.bounds == (0, 1) for chart in page.charts if "fraction" in chart.unit)
