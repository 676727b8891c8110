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

from triptych.commands.main import main
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


DAMAGES = {
    "a config truncated to broken YAML": ("config.yaml", "a: [1, "),
    "an empty config": ("config.yaml", ""),
    "a summary nested 100,000 deep": ("summary.json", "[" * 100_000),
    "a summary that is a list": ("summary.json", "[1]"),
    "a damaged row": ("metrics.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n'),
    "rows that are no objects": ("metrics.jsonl", "[1]\n[2]\n"),
    "not text": ("summary.json", b"\xff\xfe\0"),
    "no config": ("config.yaml", None),
    "no provenance": ("provenance.json", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_one_line_and_the_rest_is_listed(
    damage: str, run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        run(tmp_path, name, summary={"accuracy": 0.5}, steps=3)
    file, content = DAMAGES[damage]
    path = tmp_path / "bad" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for verb in (["runs", str(tmp_path)], ["sweep-report", str(tmp_path)], ["doctor", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["triptych", *verb])
        main()
        shown = capsys.readouterr().out
        assert "broken: " in shown or verb[0] == "sweep-report"
        assert verb[0] == "doctor" or "finished" in shown
        assert "Traceback" not in shown
    for verb in (["tail", str(tmp_path / "bad")], ["export", str(tmp_path / "bad")]):
        monkeypatch.setattr(sys, "argv", ["triptych", *verb])
        assert exit_code() in (0, 2)
        assert len(capsys.readouterr().err.splitlines()) <= 1


def exit_code() -> int:
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0
