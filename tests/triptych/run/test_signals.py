"""Signals: noted by a loop, fatal elsewhere."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_an_agreed_signal_and_ones_own_are_one_and_another_some_seconds_later_ends_the_process() -> None:
    script = """
import os, signal, time, triptych.run.signals as found
asked = found.Interruption()
asked.install()
asked.signal_number = signal.SIGTERM  # another rank had it first
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("alive", flush=True)
found._SAME_SIGNAL_SECONDS = 0.0
os.kill(os.getpid(), signal.SIGTERM)
print("alive still", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "alive\n"), done.stderr


LOOP = """
import os, signal, sys
from triptych.run.config import RunConfig
from triptych.run.session import Run
before, inside, after = (sys.argv[2] == place for place in ("before", "inside", "after"))
with Run.open(RunConfig(name="a", output_root=sys.argv[1], device="cpu")) as run:
    run.begin({})
    if before:
        os.kill(os.getpid(), signal.SIGTERM)
    run.note_signals()
    assert not run.is_interrupted()
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted" if inside and run.is_interrupted() else "not asked", flush=True)
    if inside:
        run.stop(3)
    run.wait_for_checkpoint()
    print("never reached", flush=True)
"""


@pytest.mark.parametrize(
    ("place", "code", "out"), [("before", -signal.SIGTERM, ""), ("inside", 1, "noted\n"), ("after", -signal.SIGTERM, "not asked\n")]
)
def test_a_signal_is_noted_by_a_loop_and_ends_the_process_elsewhere(tmp_path: Path, place: str, code: int, out: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOP, str(tmp_path), place], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert "never reached" not in done.stdout
    assert done.stdout.startswith(out)
    if place == "inside":
        assert "Interrupted: stopped by SIGTERM after step 3" in done.stderr
