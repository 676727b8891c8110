"""metrics.jsonl: one object per step, identical bytes after a resume."""

import json
import math
from pathlib import Path

from triptych.own_files import OwnFiles
from triptych.telemetry.tracking.jsonl import JsonlTracker, read_rows


def test_each_step_is_one_object_and_timings_are_separate(tmp_path: Path) -> None:
    tracker = JsonlTracker(OwnFiles(tmp_path))
    tracker.log({"loss": 1.5, "timing/seconds": 0.1, "length/correct": math.nan}, step=1)
    tracker.log({"loss": 0.1 + 0.2}, step=2)
    tracker.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.5, "length/correct": None}, {"step": 2, "loss": 0.1 + 0.2}]
    assert read_rows(tmp_path / "timings.jsonl") == [{"step": 1, "timing/seconds": 0.1}]


def test_a_resumed_file_equals_an_uninterrupted_one_to_the_byte(tmp_path: Path) -> None:
    def write(folder: Path, steps: range, resume_step: int | None) -> None:
        tracker = JsonlTracker(OwnFiles(folder), resume_step=resume_step)
        for step in steps:
            tracker.log({"loss": 1 / (step + 3)}, step=step)
        tracker.close()

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    write(tmp_path / "whole", range(9), None)
    write(tmp_path / "killed", range(7), None)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # truncated by the kill
    write(tmp_path / "killed", range(5, 9), 4)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_fresh_start_empties_the_files(tmp_path: Path) -> None:
    JsonlTracker(OwnFiles(tmp_path)).log({"loss": 1.0}, step=1)
    JsonlTracker(OwnFiles(tmp_path)).close()
    assert read_rows(tmp_path / "metrics.jsonl") == []
