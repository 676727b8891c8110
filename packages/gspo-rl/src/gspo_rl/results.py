"""The panel's part of docs/results.md and of the README's strip: accuracy by objective and seed, and a reward curve."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from triptych.errors import UserError
from triptych.report import Figure
from triptych.report.results import Panel, markdown_table
from triptych.telemetry.tracking.jsonl import read_rows

_TEXT = """A Qwen3 of 0.8 million parameters, after a cold start on demonstrations of which half are wrong, is trained by 100 steps of 16
prompts with 8 samples each in 4 mini-batches. Accuracy on 256 held-out sums of 3- and 4-digit numbers, 4 samples each at
temperature 1, in per cent; 95 % bootstrap intervals over prompts (`make train-gspo`, `make train-gspo
ARGS="objective=grpo"`).
"""
_REAL_TEXT = """
SmolLM2-135M-Instruct, a real model with 4-bit weights at the start, is trained in 50 steps of 8 prompts with 4 samples each on sums of two
numbers up to 50, in per cent of 300 held-out sums with 2 samples each at temperature 1; the gain is that of the last number of a response,
whatever its format, with its 95 % interval paired by prompt (`make train-gspo ARGS="experiment=real_model"`,
[the experiment](../experiments/gspo/real_model/README.md)).
"""
_REAL_RUN = "gspo_1e-5_seed_"
_SMOOTHED = 5  # steps of the running mean of the curve
_REAL_COLUMNS = ("run", "before", "after", "gain, any format", "greedy before", "greedy after", "move", "noise")
"""Of the table of the real model; the move of the policy at the last mini-batch and the noise of the sampler are in clip widths."""
_MEANS = ("accuracy_before", "accuracy_after", "accuracy_gain", "clip_fraction_tokens")


class Results:
    """GSPO against GRPO on column addition; see `Section`."""

    title = "GSPO: reinforcement learning of language models"

    def text(self, experiments: Path) -> str:
        """One row per run, and means over seeds."""
        columns = ("objective", "seed", "before", "after", "gain", "95 % interval of the gain", "tokens clipped")
        rows = []
        for objective, runs in _by_objective(experiments).items():
            for run in runs:
                low, high = (100 * bound for bound in run["accuracy_gain_interval"])
                rows.append((objective, str(run["seed"]), *_accuracies(run), f"{low:+.1f} to {high:+.1f}", _clipped(run)))
            means = {key: fmean(run[key] for run in runs) for key in _MEANS}
            rows.append((f"**{objective}**", "**mean**", *_accuracies(means), "", _clipped(means)))
        real = markdown_table(_REAL_COLUMNS, [_real_row(name, run["summary"]) for name, run in _record(experiments, "real_model").items()])
        return f"{_TEXT}\n{markdown_table(columns, rows)}{_REAL_TEXT}\n{real}"

    def figures(self, experiments: Path) -> dict[str, Figure]:
        """Accuracy after training by seed."""
        series = {
            objective: [(float(run["seed"]), run["accuracy_after"], *run["accuracy_after_interval"]) for run in runs]
            for objective, runs in _by_objective(experiments).items()
        }
        curves = {
            f"seed {name.removeprefix(_REAL_RUN)}": _smoothed(run["curves"]["reward/mean"])
            for name, run in _record(experiments, "real_model").items()
            if name.startswith(_REAL_RUN) and "curves" in run
        }
        return {
            "gspo_accuracy": Figure("Held-out accuracy after training", "seed", series, "fraction of samples", (0, 1)),
            "gspo_real_model": Figure("Mean reward of SmolLM2-135M on sums", "step", curves, "fraction of samples", (0, 1)),
        }

    def strip(self, panel: Panel, outputs: Path) -> None:
        """Mean reward over the steps of the default run."""
        rows = [row for row in read_rows(outputs / "gspo" / "metrics.jsonl") if "reward/mean" in row]
        if not rows:
            raise UserError(f"{outputs / 'gspo'} holds no training: run make train-gspo first")
        axes = panel.subplots(gridspec_kw={"left": 0.14, "right": 0.96, "bottom": 0.17, "top": 0.86})
        axes.plot([row["step"] for row in rows], [row["reward/mean"] for row in rows], color="#2563eb", linewidth=1.6)
        axes.set(xlabel="step", ylabel="mean reward", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)


def _by_objective(experiments: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in _record(experiments, "clip_fraction").values():
        found.setdefault(run["summary"]["objective"], []).append(run["summary"])
    return dict(sorted(found.items(), reverse=True))


def _record(experiments: Path, claim: str) -> dict[str, dict[str, Any]]:
    record: dict[str, dict[str, Any]] = json.loads((experiments / "gspo" / claim / "results.json").read_text())
    return record


def _real_row(name: str, run: Mapping[str, Any]) -> list[str]:
    """The cells of one run of the real model, in the order of `_REAL_COLUMNS`."""
    low, high = (100 * bound for bound in run["blind_gain_interval"])
    before, after, greedy_before, greedy_after = (
        f"{100 * run[key]:.1f}" for key in ("accuracy_before", "accuracy_after", "greedy_before", "greedy_after")
    )
    gain = f"{100 * run['blind_gain']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [
        name.replace("_", " "),
        before,
        after,
        gain,
        greedy_before,
        greedy_after,
        f"{run['median_clip_widths']:.2g}",
        f"{run['noise_clip_widths']:.2g}",
    ]


def _smoothed(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Means of the last few values at each step."""
    return [
        (points[index][0], fmean(value for _, value in points[max(0, index + 1 - _SMOOTHED) : index + 1])) for index in range(len(points))
    ]


def _accuracies(run: Mapping[str, float]) -> tuple[str, str, str]:
    before, after, gain = (100 * run[f"accuracy_{key}"] for key in ("before", "after", "gain"))
    return f"{before:.1f}", f"{after:.1f}", f"{gain:+.1f}"


def _clipped(run: Mapping[str, float]) -> str:
    return f"{run['clip_fraction_tokens']:.5f}"
