"""Signals: recorded by a loop, fatal elsewhere."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_repeated_signal_is_ignored_within_seconds_and_ends_the_process_after() -> None:
    script = """
import os, signal, time, triptych.run.signals as found
interruption = found.Interruption()
interruption.install()
interruption.signal_number = signal.SIGTERM  # as if another rank received it first
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("alive", flush=True)
found._SAME_SIGNAL_SECONDS = 0.0
os.kill(os.getpid(), signal.SIGTERM)
print("alive still", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "alive\n"), done.stderr


@pytest.mark.parametrize(("command", "warns"), [("os.kill(os.getpid(), signal.SIGTERM)", False), ("sys.exit('already completing')", True)])
def test_a_requeue_survives_the_end_of_the_grace_time(command: str, warns: bool) -> None:
    """The scheduler sends SIGTERM to every process of the job, the command that requeues it included, and requeues by itself."""
    script = f"""
import signal, subprocess, sys, triptych.run.signals as found
found._SCHEDULER_SECONDS = 0.0
def requeue(number, frame):
    subprocess.check_call([sys.executable, "-c", "import os, signal, sys; {command}"])
    print("requeued", flush=True)
signal.signal(signal.SIGUSR2, requeue)
interruption = found.Interruption()
interruption.install()
signal.raise_signal(signal.SIGUSR2)
interruption.requeue(lambda: print("left", flush=True))
signal.raise_signal(signal.SIGTERM)
print("waited", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["left", "waited"] if warns else ["left", "requeued", "waited"]), done.stderr
    assert ("waiting for the scheduler" in done.stderr) == warns


LOOP = """
import os, signal, sys
from triptych.run.config import RunConfig
from triptych.run.session import Run
when = sys.argv[2]
class Nothing:
    def save(self, directory): (directory / "nothing").write_text("")
    def load(self, directory): pass
def interrupt(moment):
    if when == moment:
        os.kill(os.getpid(), signal.SIGTERM)
        print("received", flush=True)
with Run.open(RunConfig(name="a", output_root=sys.argv[1], device="cpu")) as run:
    state = {"nothing": Nothing()}
    run.begin(state)
    interrupt("before")
    for step in run.steps(5, state):
        if step.number == 3:
            interrupt("inside")
        step.metrics["number"] = step.number
    interrupt("after")
    print("never reached", flush=True)
"""


@pytest.mark.parametrize(
    ("moment", "code", "out"), [("before", -signal.SIGTERM, ""), ("inside", 1, "received\n"), ("after", -signal.SIGTERM, "")]
)
def test_a_signal_is_recorded_during_the_steps_and_ends_the_process_elsewhere(tmp_path: Path, moment: str, code: int, out: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOP, str(tmp_path), moment], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert "never reached" not in done.stdout
    assert done.stdout.startswith(out)
    if moment == "inside":
        assert "Interrupted: stopped by SIGTERM after step 3" in done.stderr
        assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == ["step_00000003"]
        rows = [json.loads(row) for row in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
        assert [row["number"] for row in rows] == [1, 2, 3], "the metrics of the interrupted step are on disk"


def test_a_loop_without_checkpoints_reports_that_nothing_is_saved(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from triptych.run.config import RunConfig
from triptych.run.session import Run
with Run.open(RunConfig(name="a", output_root=sys.argv[1], device="cpu")) as run:
    for step in run.steps(5, {}):
        os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "stopped by SIGTERM before the first checkpoint: rerun the same command to start again" in done.stderr
    assert not (tmp_path / "a").exists(), "a run that ends before it began leaves no folder"


def test_work_that_makes_progress_feeds_the_watchdog_and_work_that_hangs_does_not() -> None:
    script = """
import sys, time, triptych.run.signals as found
found._FEED_SECONDS = 0.05
found.feed_watchdog()  # starts none
found.watch(1.0)
for _ in range(20):
    time.sleep(0.1)
    found.feed_watchdog()
print("alive", flush=True)
found.unwatch()
found.feed_watchdog()
time.sleep(1.5)
print("unwatched", flush=True)
found.watch(0.5)
time.sleep(5)
print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "alive\nunwatched\n"), done.stderr
