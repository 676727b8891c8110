"""`triptych runs`, `tail` and `sweep-report`: states of runs, and messages for missing ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.commands.runs import find_runs

ALIVE = """
import sys, time
from triptych.run.config import RunConfig
from triptych.run.session import Run
with Run.open(RunConfig(name="alive", output_root=sys.argv[1], device="cpu")) as run:
    run.begin({})
    print("begun", flush=True)
    time.sleep(60)
"""


def test_runs_are_finished_dead_or_running(run: Callable[..., None], tmp_path: Path) -> None:
    run(tmp_path, "done", summary={"accuracy": 0.5}, steps=4)
    run(tmp_path, "sweep/seed=1", steps=3)
    run(tmp_path, "young")
    (tmp_path / "no-run").mkdir()
    process = subprocess.Popen([sys.executable, "-c", ALIVE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    try:
        states = {str(found.folder.relative_to(tmp_path)): (found.state, found.step) for found in find_runs(tmp_path)}
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    expected = {"alive": ("running", None), "done": ("finished", 4), "sweep/seed=1": ("dead at step 3", 3)}
    assert states == expected | {"young": ("dead before its first checkpoint", None)}
    deadline = time.monotonic() + 10
    while find_runs(tmp_path)[0].state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert find_runs(tmp_path)[0].state.startswith("dead"), "the lock of a killed process is released"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["runs", "nowhere"], "there is no folder nowhere"), (["tail", "."], "has no metrics.jsonl"), (["sweep-report", "."], "holds no run")],
)
def test_a_missing_run_is_reported_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "triptych.commands.main", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.dumps(done.stdout) == '""'
