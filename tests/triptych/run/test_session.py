"""One run's folder: identity, locks, resume modes, and nothing half-written."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.errors import UserError
from triptych.report import ReportConfig
from triptych.run.config import RunConfig
from triptych.run.session import Run


@dataclass
class Inner:
    learning_rate: float = 0.1
    max_steps: int = 10


@dataclass
class Config(RunConfig):
    inner: Inner = field(default_factory=Inner)
    choice: Any = None


def config(root: Path, **changes: Any) -> Config:
    return Config(**{"name": "a", "output_root": str(root), "device": "cpu", **changes})


class Counter:
    """A component of the checkpoint with one number."""

    def __init__(self) -> None:
        self.value = 0

    def save(self, directory: Path) -> None:
        (directory / "value.json").write_text(json.dumps(self.value))

    def load(self, directory: Path) -> None:
        self.value = json.loads((directory / "value.json").read_text())


def work(settings: Config, until: int, **options: Any) -> int | None:
    """Counts to `until`, checkpointing at each step; returns the step it resumed from."""
    with Run.open(settings, **options) as run:
        counter = Counter()
        resumed = run.begin({"counter": counter})
        for step in range((resumed or 0) + 1, until + 1):
            counter.value += step
            run.log({"value": counter.value}, step=step)
            run.checkpoint(step, {"counter": counter})
        run.finish({"value": counter.value}, report=ReportConfig("test"))
        return resumed


def test_a_run_writes_its_documented_files(tmp_path: Path) -> None:
    assert work(config(tmp_path), 3) is None
    folder = tmp_path / "a"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "provenance.json", "metrics.jsonl", "timings.jsonl", "summary.json", "report.html", "checkpoints",
    }  # fmt: skip
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "value": 1}, {"step": 2, "value": 3}, {"step": 3, "value": 6},
    ]  # fmt: skip
    assert json.loads((folder / "summary.json").read_text()) == {"value": 6}
    assert yaml.safe_load((folder / "config.yaml").read_text())["inner"] == {"learning_rate": 0.1, "max_steps": 10}
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000002", "step_00000003"]


def test_the_same_command_resumes(tmp_path: Path) -> None:
    work(config(tmp_path), 3)
    before = (tmp_path / "a" / "metrics.jsonl").read_text()
    assert work(config(tmp_path), 5) == 3
    assert (tmp_path / "a" / "metrics.jsonl").read_text().startswith(before)
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"value": 15}


def test_another_config_is_refused_and_the_first_key_named(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    with pytest.raises(UserError, match=r"holds a run with inner\.learning_rate=0\.1 instead of 0\.2: .*overwrite=true") as caught:
        work(config(tmp_path, inner=Inner(learning_rate=0.2)), 3)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"value": 3}, "the refused run changed no file"


def test_settings_without_effect_on_results_may_differ(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    assert work(config(tmp_path, checkpoint=CheckpointConfig(every_steps=3, keep=5), resume="must", choice=None), 3) == 2


def test_a_budget_may_grow_but_not_shrink(tmp_path: Path) -> None:
    work(config(tmp_path), 2, budget_keys=("inner.max_steps",))
    assert work(config(tmp_path, inner=Inner(max_steps=20)), 3, budget_keys=("inner.max_steps",)) == 2
    with pytest.raises(UserError, match=r"inner\.max_steps=20 instead of 10"):
        work(config(tmp_path), 3, budget_keys=("inner.max_steps",))
    with pytest.raises(UserError, match=r"inner\.max_steps=20 instead of 30"):
        work(config(tmp_path, inner=Inner(max_steps=30)), 3)


def test_resume_modes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume=must but"):
        work(config(tmp_path, resume="must"), 2)
    assert not (tmp_path / "a").exists(), "a run that did not begin leaves no folder"
    work(config(tmp_path, resume="never"), 2)
    with pytest.raises(UserError, match="resume=never but"):
        work(config(tmp_path, resume="never"), 2)
    assert work(config(tmp_path, resume_step=1), 2) == 1
    assert work(config(tmp_path, overwrite=True, seed=5), 1) is None


def test_a_failure_before_begin_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty task"), Run.open(config(tmp_path, name="x/y/z")):
        raise UserError("empty task")
    assert list(tmp_path.iterdir()) == []


def test_overwrite_never_deletes_files_that_are_not_a_run_of_this_command(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="files that are not an earlier run of this command"):
        work(config(tmp_path, overwrite=True), 1)
    with Run.open(RunConfig(name="b", output_root=str(tmp_path), device="cpu")) as run:
        run.begin({})
    with pytest.raises(UserError, match="not an earlier run"):
        work(config(tmp_path, name="b", overwrite=True), 1)
    assert (tmp_path / "a" / "thesis.tex").exists()


@pytest.mark.faults
def test_a_second_run_of_the_same_name_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with Run.open(config(tmp_path)), pytest.raises(UserError, match="in use by a running process"):
        work(config(tmp_path), 1)
    work(config(tmp_path), 1)


@pytest.mark.faults
def test_the_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from triptych.run.session import Run; from triptych.run.config import RunConfig\n"
        "with Run.open(RunConfig(name='a', output_root=sys.argv[1], device='cpu')): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "a" / ".lock").exists()
    work(config(tmp_path), 1)


@pytest.mark.faults
@pytest.mark.mount
def test_a_file_system_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Also for root, which may write into a folder without write permission."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\): choose another output_root"):
            work(config(disk), 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        work(config(tmp_path), 1)


def test_a_file_instead_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \((File exists|Not a directory)\)"):
        work(config(tmp_path), 1)


def test_a_run_that_did_not_begin_leaves_the_folders_that_another_run_uses(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    with pytest.raises(UserError, match="empty task"), Run.open(config(root)):
        work(config(root, name="b"), 2)  # begins and ends before the first run begins
        raise UserError("empty task")
    assert sorted(path.name for path in root.iterdir()) == ["b"]
    assert (root / "b" / "summary.json").exists()


def test_overwrite_deletes_nothing_before_the_new_run_begins(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    with pytest.raises(UserError, match="no such model"), Run.open(config(tmp_path, overwrite=True)) as run:
        assert run.checkpoint_steps == []
        raise UserError("no such model")
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"value": 3}
    assert work(config(tmp_path, overwrite=True), 1) is None
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"value": 1}


def test_a_resumed_run_is_no_longer_finished(tmp_path: Path) -> None:
    settings = config(tmp_path)
    work(settings, 2)
    with Run.open(settings) as run:
        assert run.is_finished(2)
    with Run.open(settings) as run:
        run.begin({"counter": Counter()})
    assert not (tmp_path / "a" / "summary.json").exists()
    assert not (tmp_path / "a" / "report.html").exists()
