"""The panel's part of docs/results.md and of the README's strip: memory policies, and a storyboard with its memory."""

import json
from pathlib import Path
from typing import Any

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.images import to_bytes
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from captain_cinema.toy.models import load_keyframe_model
from captain_cinema.toy.planner import plan_storyboard
from triptych.report import Figure
from triptych.report.results import Panel, markdown_table

_STORYLINE = "ada meets bo in the kitchen; bo leaves; ada finds the red box in the attic; bo returns"
_TEXT = """Memory policies with one set of weights on tiny cinema: 60 stories at each of 8, 16, 32 and 48 shots, seed 0, two Euler steps.
A shot in which a character reappears is generated over the true past. *Identity* is right if all four details of the
character are, *set* if all three of the place are; beside each the upper bound, an oracle with access to the same memory.
*Film* is the fraction of reappearances that look as in their first shot, in films of 16 shots over their own keyframes (`make
evaluate-cinema`).

**Moving clips lose identity**: the keyframes are measured here, not the clips between them.
"""


class Results:
    """Memories of the keyframe model; see `Section`."""

    title = "Captain Cinema: keyframes with a memory"

    def text(self, experiments: Path) -> str:
        """One row per memory policy."""
        columns = (
            "memory", "tokens per shot", "colour", "identity, of its upper bound", "set, of its upper bound", "identity, 95 %", "set, 95 %",
            "ms per shot", "film",
        )  # fmt: skip
        rows = [
            (
                f"`{name}`",
                f"{row['tokens_per_shot']:.0f}",
                f"{row['colour']:.2f}",
                f"{row['identity']:.2f} of {row['identity_upper_bound']:.2f}",
                f"{row['set']:.2f} of {row['set_upper_bound']:.2f}",
                "{:.2f} to {:.2f}".format(*row["identity_interval"]),
                "{:.2f} to {:.2f}".format(*row["set_interval"]),
                f"{1e3 * row['seconds_per_shot']:.0f}",
                f"{row['film']['same_identity']:.2f}",
            )
            for name, row in _memories(experiments).items()
        ]
        return f"{_TEXT}\n{markdown_table(columns, rows)}"

    def figures(self, experiments: Path) -> dict[str, Figure]:
        """Identity over tokens per shot, a point per policy."""
        series = {
            name: [(row["tokens_per_shot"], row["identity"], *row["identity_interval"])] for name, row in _memories(experiments).items()
        }
        return {"cinema_identity": Figure("Identity of the reappearing character", "tokens per shot", series, "fraction right", (0, 1))}

    def strip(self, panel: Panel, outputs: Path) -> None:
        """Keyframes of a storyline, and below each the remembered frames at their size."""
        board = plan_storyboard(_STORYLINE, seed=1)
        sampler = KeyframeSampler(load_keyframe_model(), MemoryPolicy(frames_per_level=1), SamplingConfig(num_steps=2), image_size=(64, 64))
        keyframes = sampler.sample(board)[:6]
        images = [to_bytes(keyframe.frame[None])[0].numpy() for keyframe in keyframes]
        grid = panel.subplots(2, len(images), gridspec_kw={"left": 0.02, "right": 0.98, "top": 0.9, "bottom": 0.1, "wspace": 0.08})
        for column, (keyframe, image) in enumerate(zip(keyframes, images, strict=True)):
            grid[0, column].imshow(image)
            memory = grid[1, column]
            top = 0.0
            for entry in keyframe.remembered[:4]:
                if entry.source < 0:
                    continue
                side = 64 * entry.grid[0] / 8
                memory.imshow(images[entry.source], extent=(0, side, top + side, top), interpolation="nearest")
                top += side + 6
            memory.set(xlim=(0, 64), ylim=(130, 0))
        for axes in grid.flat:
            axes.axis("off")
        panel.text(0.02, 0.04, "keyframes, and the memory of each shot at the size that is kept", fontsize=8)


def _memories(experiments: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((experiments / "cinema" / "memories" / "results.json").read_text())
    return dict(next(iter(record.values()))["summary"]["memories"])
