"""The launcher: exit codes and one-line reports of real processes that end in different ways."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from triptych.commands.messages import is_first_to_report

rank = int(os.environ["RANK"])
"""


def launch(folder: Path, body: str) -> "subprocess.CompletedProcess[str]":
    (folder / "script.py").write_text(SCRIPT + body)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "triptych.commands.launch", "--standalone", "--nproc-per-node=2", "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("body", "code", "errors"),
    [
        ("print(rank, os.environ['WORLD_SIZE'])", 0, []),
        # Bad input is found by all ranks; the one that reports first is the only one.
        (
            "if is_first_to_report(): print('error: a is 1: choose 2', file=sys.stderr)\nsys.exit(2)",
            2,
            ["error: a is 1: choose 2"],
        ),
        (
            "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)",
            128 + 9,
            ["error: rank 1 was killed by SIGKILL; rerun the same command to resume from the last checkpoint"],
        ),
        (
            "if rank == 0: sys.exit(75)\ntime.sleep(60)",
            75,
            ["error: a process of this run no longer responds; rerun the same command to resume from the last checkpoint"],
        ),
    ],
    ids=["success", "bad input", "killed", "lost"],
)
def test_the_exit_code_is_that_of_the_cause_without_traceback(tmp_path: Path, body: str, code: int, errors: list[str]) -> None:
    done = launch(tmp_path, body)
    assert done.returncode == code, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == errors, done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        assert sorted(done.stdout.splitlines()) == ["0 2", "1 2"]
