"""The panel's part of docs/results.md and of the README's strip: search strategies, and the tree of one search."""

import json
from pathlib import Path
from typing import Any

from triptych.report import Figure
from triptych.report.results import Panel, markdown_table
from tts_var.images import to_image
from tts_var.numerics.schedule import Event, SearchConfig
from tts_var.report.evaluation_page import figures, points
from tts_var.search import Search
from tts_var.toy.models import load_small_world
from tts_var.toy.scorers import clip_features, clip_reward

_PROMPT = "two red circles left of a blue square"
_TEXT = """Fraction of 300 prompts whose chosen image fulfils every part, three seeds, the shipped weights; half of the prompts are
combinations that were held out of training. Intervals are 95 % bootstrap intervals over prompts (`make evaluate-var
ARGS="experiment=search_strategies"`).

**The verifier under-counts right images**: differences between strategies include differences in how cleanly edges and hues
are rendered.
Which part of the method accounts for the gain: `experiments/var/what_pays/README.md`.
"""


class Results:
    """Search strategies on the small world; see `Section`."""

    title = "TTS-VAR: test-time search for next-scale image models"

    def text(self, experiments: Path) -> str:
        """One row per strategy."""
        columns = (
            "strategy", "final images", "fulfilled, %", "95 % interval", "GFLOP per prompt", "any final image, %", "over a single sample",
        )  # fmt: skip
        rows = []
        for name, row in _strategies(experiments).items():
            low, high = (100 * bound for bound in row["interval"])
            rows.append(
                (
                    f"`{name}`",
                    str(row["num_samples"]),
                    f"{100 * row['score']:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    f"{1e3 * row['tflops']:.2f}",
                    f"{100 * row['any_correct']:.1f}",
                    points(row.get("over_single")),
                )
            )
        return f"{_TEXT}\n{markdown_table(columns, rows)}"

    def figures(self, experiments: Path) -> dict[str, Figure]:
        """Score over the number of final images, and over compute."""
        strategies = _strategies(experiments)
        best_of_n = [name for name in strategies if name.startswith(("single", "best_of"))]
        over_images, over_compute = figures(strategies, best_of_n, [], 0.95)
        return {"var_score_over_images": over_images, "var_score_over_compute": over_compute}

    def strip(self, panel: Panel, outputs: Path) -> None:
        """Partial images of every particle, a row per scale from the third on, and the path of the chosen image."""
        config = SearchConfig(batch_schedule=[6, 6, 6, 4, 4, 2, 2], events=[Event(3, "cluster"), Event(5, "resample")], num_scales=7)
        search = Search(load_small_world(), config, reward=clip_reward(), features=clip_features())
        (result,) = search.run(_PROMPT, seed=0, trace=True)
        axes = panel.subplots(gridspec_kw={"left": 0.02, "right": 0.98, "top": 0.86, "bottom": 0.12})
        shown = range(2, len(result.thumbnails))
        for row, scale in enumerate(shown):
            for column, image in enumerate(result.thumbnails[scale]):
                left, top = 1.15 * column, 1.15 * row
                axes.imshow(to_image(image), extent=(left, left + 1, top + 1, top))
                if scale < len(result.lineage) and result.lineage[scale] == column:
                    axes.plot([left, left + 1, left + 1, left, left], [top, top, top + 1, top + 1, top], color="#0b7a4b", linewidth=2)
        axes.set(xlim=(-0.1, 1.15 * 6 + 3), ylim=(1.15 * len(shown), -0.1))
        axes.imshow(to_image(result.image), extent=(7.2, 9.8, 3.9, 1.3))
        axes.axis("off")
        panel.text(0.02, 0.04, f'"{_PROMPT}", from coarse to fine', fontsize=8)


def _strategies(experiments: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((experiments / "var" / "search_strategies" / "results.json").read_text())
    return dict(record["search_strategies"]["summary"]["strategies"])
