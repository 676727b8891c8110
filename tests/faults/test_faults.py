"""Runs whose process dies, hangs, or receives a signal; a full disk and damaged files are tested with checkpoints."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

STEPS = "trainer.max_steps=8"


def error_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def whole(victim: Callable) -> bytes:
    run = victim("whole", STEPS)
    code, _, err = run.end()
    assert code == 0, err
    return (run.folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_at_the_next_step_and_the_resumed_run_equals_an_uninterrupted_one(
    victim: Callable, whole: bytes, processes: int
) -> None:
    run = victim("stopped", STEPS, processes=processes)
    run.wait_for_step(4)
    run.process.send_signal(signal.SIGTERM)
    code, _, err = run.end(seconds=40)
    assert code == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    if processes == 1:
        assert "stopped by SIGTERM after step" in err
    assert max(int(path.name[5:]) for path in (run.folder / "checkpoints").iterdir()) >= 4, "no checkpoint was saved at the signal"
    again = victim("stopped", STEPS, processes=processes)
    code, out, err = again.end()
    assert code == 0, err
    assert "resuming from step" in out
    if processes == 1:
        assert (again.folder / "metrics.jsonl").read_bytes() == whole


def test_a_signal_to_launcher_and_processes_counts_once(victim: Callable) -> None:
    """As sent by `scancel` and preemption: each process receives the signal directly, and again from the launcher."""
    run = victim("stopped", STEPS, processes=2)
    run.wait_for_step(2)
    os.killpg(run.process.pid, signal.SIGTERM)
    for rank in run.ranks():
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGTERM)
    code, _, err = run.end(seconds=50)
    assert code == 128 + signal.SIGTERM, err
    assert "is saved" in err or "rerun the same command" in err, err
    last = run.rows[-1]["step"]
    assert (run.folder / "checkpoints" / f"step_{last:08d}" / "manifest.json").is_file()


def test_a_killed_rank_ends_the_run_with_one_line(victim: Callable, whole: bytes) -> None:
    run = victim("killed", STEPS, processes=2)
    run.wait_for_step(4)
    os.kill(run.ranks()[1], signal.SIGKILL)
    started = time.monotonic()
    code, _, err = run.end(seconds=50)
    assert time.monotonic() - started < 40
    assert code == 128 + signal.SIGKILL, err
    assert error_lines(err) == ["error: rank 1 was killed by SIGKILL; rerun the same command to resume from the last checkpoint"], err
    assert not list((run.folder / "checkpoints").glob("*.partial")) or not list(
        (run.folder / "checkpoints").glob("*.partial/manifest.json")
    )
    again = victim("killed", STEPS)
    code, _, err = again.end()
    assert code == 0, err
    assert [row["step"] for row in again.rows] == list(range(9))


def test_a_hung_rank_ends_the_run_and_the_others_print_their_stacks(victim: Callable) -> None:
    run = victim("hung", STEPS, "timeout_seconds=6", processes=2)
    run.wait_for_step(4)
    os.kill(run.ranks()[1], signal.SIGSTOP)
    code, _, err = run.end(seconds=58)
    assert code != 0
    assert "Timeout (0:00:06)!" in err, "the watchdog reports"
    assert 'File "' in err, "and prints the stack"
    assert "trainer.py" in err


def test_a_clock_that_runs_backwards_does_not_change_results(victim: Callable, whole: bytes, tmp_path: Path) -> None:
    backwards = "import itertools, time\n_ticks = itertools.count(2e9, -3600.0)\ntime.time = lambda: next(_ticks)\n"
    (tmp_path / "sitecustomize.py").write_text(backwards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        run = victim("backwards", STEPS)
        code, _, err = run.end()
    assert code == 0, err
    assert (run.folder / "metrics.jsonl").read_bytes() == whole


def test_a_second_run_of_the_same_name_is_refused_until_the_first_is_dead(victim: Callable) -> None:
    forever = "trainer.max_steps=100000"
    first = victim("same", forever)
    first.wait_for_step(1)
    code, _, err = victim("same", forever).end()
    assert code == 2
    assert "is in use by a running process" in err
    os.kill(first.process.pid, signal.SIGKILL)
    first.end()
    reached = first.rows[-1]["step"]
    victim("same", forever).wait_for_step(reached + 1)
