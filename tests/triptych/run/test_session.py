"""One run's folder: identity, locks, resume modes, and nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.distributed import World
from triptych.errors import UserError
from triptych.own_files import OwnFiles
from triptych.report import ReportConfig
from triptych.run.config import RunConfig
from triptych.run.directory import RunDirectory
from triptych.run.lock import is_locked
from triptych.run.secret import Secret
from triptych.run.session import Run
from triptych.run.signals import Interrupted
from triptych.testing import run_distributed


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
        "config.yaml", "identity.json", ".files.jsonl", "provenance.json", "metrics.jsonl", "timings.jsonl", "summary.json", "report.html", "checkpoints",
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


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    work(config(tmp_path), 7)
    checkpoints = tmp_path / "a" / "checkpoints"
    (checkpoints / "step_00000007").rename(checkpoints / "step_00000050")
    with pytest.raises(UserError, match=r"manifest\.json is of step 7, rename the folder back .*resume_step=6"):
        work(config(tmp_path), 8)
    manifest = json.loads((checkpoints / "step_00000050" / "manifest.json").read_text())
    (checkpoints / "step_00000050" / "manifest.json").write_text(json.dumps({**manifest, "step": 50}))
    with pytest.raises(UserError, match="holds the state of step 7: rename the folder back to step_00000007"):
        work(config(tmp_path), 8)
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"value": 28}, "a refused run changes no result"
    (checkpoints / "step_00000050" / "manifest.json").write_text(json.dumps(manifest))
    (checkpoints / "step_00000050").rename(checkpoints / "step_00000007")
    assert work(config(tmp_path), 8) == 7


def test_a_checkpoint_of_another_version_is_one_line(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    with Run.open(config(tmp_path)) as run, pytest.raises(UserError, match="has no 'other', another version of this command wrote it"):
        run.begin({"counter": Counter(), "other": Counter()})


@pytest.mark.parametrize("name", ["config.yaml", "identity.json"])
def test_a_run_that_has_lost_its_settings_is_refused(tmp_path: Path, name: str) -> None:
    """Without them a run would resume with another seed, unnoticed."""
    work(config(tmp_path), 2)
    (tmp_path / "a" / name).unlink()
    with pytest.raises(UserError, match=f"holds a run without {name}: restore the file"):
        work(config(tmp_path, seed=5), 3)
    assert work(config(tmp_path, overwrite=True), 1) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"id": "a"}', "[" * 100_000])
def test_a_damaged_identity_is_one_line(tmp_path: Path, content: str) -> None:
    work(config(tmp_path), 2)
    (tmp_path / "a" / "identity.json").write_text(content)
    with pytest.raises(UserError, match=r"identity\.json is .*: restore the file"):
        work(config(tmp_path), 3)


def test_a_run_can_be_moved_and_renamed(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").rename(tmp_path / "elsewhere" / "b")
    assert work(config(tmp_path / "elsewhere", name="b"), 3) == 2


def test_an_input_that_has_changed_is_refused_until_it_is_named(tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text("1")
    settings = config(tmp_path, choice={"path": str(data)})
    work(settings, 2)
    data.write_text("2")
    with pytest.raises(
        UserError, match=r"has read another content of choice\.path: restore it, .* or confirm the change with changed=\[choice\.path\]"
    ):
        work(settings, 3)
    named = config(tmp_path, choice={"path": str(data)}, changed=["choice.path"])
    assert work(named, 3) == 2
    changes = [json.loads(line) for line in (tmp_path / "a" / "changes.jsonl").read_text().splitlines()]
    assert [(change["step"], change["key"]) for change in changes] == [(2, "choice.path")]
    assert changes[0]["before"] != changes[0]["after"]
    assert work(settings, 4) == 3, "the new content is the run's"
    assert work(named, 5) == 4, "the same command again changes nothing"
    assert len((tmp_path / "a" / "changes.jsonl").read_text().splitlines()) == 1
    data.unlink()
    with pytest.raises(UserError, match="another content of choice"):
        work(settings, 6)


def test_a_setting_can_be_changed_by_naming_it(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    longer = Inner(learning_rate=0.2)
    with pytest.raises(UserError, match=r"changed=\[inner\.learning_rate\]"):
        work(config(tmp_path, inner=longer), 3)
    with pytest.raises(UserError, match=r"inner\.learning_rate=0\.1 instead of 0\.2"):
        work(config(tmp_path, inner=longer, changed=["inner.max_steps"]), 3)
    with pytest.raises(UserError, match="changed names 'iner', which is not a setting"):
        work(config(tmp_path, inner=longer, changed=["iner"]), 3)
    assert work(config(tmp_path, inner=longer, changed=["inner"]), 3) == 2
    [change] = [json.loads(line) for line in (tmp_path / "a" / "changes.jsonl").read_text().splitlines()]
    assert change == {"step": 2, "key": "inner.learning_rate", "before": 0.1, "after": 0.2}
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["inner"]["learning_rate"] == 0.2


def test_a_requeued_command_goes_back_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = CheckpointConfig(keep=2)
    work(config(tmp_path, checkpoint=keep), 4)
    back = config(tmp_path, checkpoint=keep, resume_step=3)
    assert work(back, 6) == 3
    assert "resume_step=3 was applied before" not in capsys.readouterr().out
    assert work(back, 8) == 6, "step 3 is gone, and the run went on"
    assert "resume_step=3 was applied before: resuming from step 6" in capsys.readouterr().out
    assert work(config(tmp_path, checkpoint=keep), 9) == 8
    assert work(config(tmp_path, checkpoint=keep, resume_step=8), 9) == 8


def test_what_came_after_the_step_that_a_run_goes_back_to_is_kept_each_time(tmp_path: Path) -> None:
    everything = CheckpointConfig(keep=9)
    work(config(tmp_path, checkpoint=everything), 3)
    for _ in range(2):
        work(config(tmp_path, checkpoint=everything, resume_step=2), 3)
        work(config(tmp_path, checkpoint=everything), 3)
    names = {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()}
    assert names == {"step_00000001", "step_00000002", "step_00000003", "step_00000003.abandoned", "step_00000003.abandoned-2"}
    for number in (1, 2):
        rows = (tmp_path / "a" / f"metrics.abandoned-{number}.jsonl").read_text()
        assert json.loads(rows) == {"step": 3, "value": 6}


def test_overwrite_and_resume_step_contradict_each_other(tmp_path: Path) -> None:
    work(config(tmp_path), 2)
    with pytest.raises(UserError, match="contradict each other"):
        work(config(tmp_path, overwrite=True, resume_step=1), 2)


def test_a_damaged_line_of_metrics_refuses_and_keeps_the_file(tmp_path: Path) -> None:
    work(config(tmp_path), 4)
    path = tmp_path / "a" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    damaged = "".join([lines[0], lines[1][:5] + "\n", *lines[2:]])
    path.write_text(damaged)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        work(config(tmp_path), 5)
    assert path.read_text() == damaged
    assert (tmp_path / "a" / "summary.json").exists(), "a refused run keeps the results"


def _work_on(world: World, root: Path, settings: dict[str, Any]) -> tuple[int | None, list[int]]:
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.rank))
    os.environ.update(SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(settings.pop("restarts", 0)))
    options = config(root, **settings)
    with Run.open(options) as run:
        before = run.checkpoint_steps
        counter = Counter()
        resumed = run.begin({"counter": counter})
        for step in range((resumed or 0) + 1, (resumed or 0) + 3):
            run.log({"value": step}, step=step)
            run.checkpoint(step, {"counter": counter})
        return resumed, before


def test_all_ranks_agree_on_what_is_resumed_and_what_is_replaced(tmp_path: Path) -> None:
    def both(**settings: Any) -> tuple[int | None, list[int]]:
        one, other = run_distributed(_work_on, world_size=2, args=(tmp_path, settings))
        assert one == other
        return one

    assert both() == (None, [])
    assert both(overwrite=True) == (None, [])
    assert both(overwrite=True, restarts=1) == (2, [1, 2])
    assert both(resume_step=3) == (3, [3, 4])
    assert both(resume_step=3) == (5, [4, 5]), "it was applied"


def test_overwrite_is_not_applied_again_when_slurm_requeues_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    work(config(tmp_path), 2)
    anew = config(tmp_path, overwrite=True)
    assert work(anew, 3) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert work(anew, 5) == 3
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert work(anew, 1) is None


class Tracks:
    """A tracker that remembers how it was made."""

    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        self.made.append(arguments)

    def log(self, metrics: Any, *, step: int) -> None: ...

    def close(self) -> None: ...


def test_the_id_of_a_tracked_run_is_random_and_kept_while_it_resumes(tmp_path: Path) -> None:
    Tracks.made.clear()
    work(config(tmp_path / "one"), 2, tracker=Tracks)
    work(config(tmp_path / "one"), 3, tracker=Tracks)
    (tmp_path / "one" / "a").rename(tmp_path / "one" / "b")
    work(config(tmp_path / "one", name="b"), 4, tracker=Tracks)
    work(config(tmp_path / "one", name="b", overwrite=True), 1, tracker=Tracks)
    work(config(tmp_path / "one", name="b", resume_step=1), 2, tracker=Tracks)
    (tmp_path / "one").rename(tmp_path / "two")  # the same path as in another container
    work(config(tmp_path / "one", name="b"), 1, tracker=Tracks)
    first, second, third, fourth, rewound, other = [made["run_id"] for made in Tracks.made]
    assert first == second == third
    assert len({first, fourth, rewound, other}) == 4


def test_secrets_are_used_and_not_written(tmp_path: Path) -> None:
    Tracks.made.clear()
    key = Secret("sk-12345", "${oc.env:KEY}")
    settings = config(tmp_path, choice={"key": key, "list": [key]})
    work(settings, 2, tracker=Tracks)
    with Run.open(settings) as run:
        run.begin({"counter": Counter()})
        run.finish({"choice": settings.choice}, report=ReportConfig("test"))
    assert Tracks.made[0]["config"]["choice"] == {"key": "${oc.env:KEY}", "list": ["${oc.env:KEY}"]}
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert not [path for path in files if b"sk-12345" in path.read_bytes()]
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["choice"]["key"] == "${oc.env:KEY}"
    with pytest.raises(UserError, match="choice.key=another value of the variable"):
        work(config(tmp_path, choice={"key": Secret("other", key.shown), "list": [key]}), 3)


def test_a_phase_before_the_training_resumes_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    def phase(stop_after: int, fingerprint: str = "f") -> int:
        with Run.open(config(tmp_path, checkpoint=CheckpointConfig(every_steps=1))) as run:
            counter = Counter()
            state = {"counter": counter}
            with run.phase("before", state, fingerprint=fingerprint) as restored:
                for step in run.steps(5, state, first=restored + 1):
                    counter.value += step.number
                    if step.number == stop_after:
                        raise UserError("stopped here")
            assert counter.value == 15
            assert run.checkpoint_steps == []
        return restored

    for _ in range(2):
        with pytest.raises(UserError, match="stopped here"):
            phase(4)
    assert sorted(path.name for path in (tmp_path / "a" / ".phase-before").iterdir()) == ["step_00000002", "step_00000003"]
    assert phase(0) == 3
    assert not (tmp_path / "a" / ".phase-before").exists()
    with pytest.raises(UserError, match="stopped here"):
        phase(3)
    assert phase(0, fingerprint="other") == 0, "work on other inputs starts from its first step"
    with pytest.raises(UserError, match="stopped here"):
        phase(3)
    assert work(config(tmp_path, overwrite=True), 1) is None
    assert not (tmp_path / "a" / ".phase-before").exists()


def test_staged_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    with Run.open(config(tmp_path)) as run:
        run.begin({})
        with pytest.raises(RuntimeError), run.staging("pictures") as folder:
            (folder / "1.png").write_text("half")
            raise RuntimeError
        assert not (run.directory / "pictures").exists()
        with run.staging("pictures") as folder:
            (folder / "1.png").write_text("whole")
        assert [path.name for path in (run.directory / "pictures").iterdir()] == ["1.png"]


def test_a_change_may_name_an_input_in_a_list_or_a_setting_that_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text("1")
    settings = config(tmp_path, choice={"files": [str(data)], "old": 1})
    work(settings, 2)
    data.write_text("2")
    with pytest.raises(UserError, match=r"changed=\[choice\.files\.0\]"):
        work(settings, 3)
    assert work(config(tmp_path, choice={"files": [str(data)], "old": 1}, changed=["choice.files.0"]), 3) == 2
    for until in (4, 5):  # a requeued job repeats its command
        assert work(config(tmp_path, choice={"files": [str(data)]}, changed=["choice.old"]), until) == until - 1


def test_a_kill_while_a_run_is_overwritten_leaves_one_that_can_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(config(tmp_path), 2)
    (tmp_path / "a" / "notes.md").write_text("mine")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_identity", killed)
        with pytest.raises(KeyboardInterrupt):
            work(config(tmp_path, overwrite=True), 2)
    assert not (tmp_path / "a" / "config.yaml").exists()
    assert work(config(tmp_path, overwrite=True), 1) is None
    assert (tmp_path / "a" / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("method", ["write_identity", "log_changes"])
def test_rows_after_the_step_that_a_run_goes_back_to_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    work(config(tmp_path), 3)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    back = config(tmp_path, resume_step=2)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, method, killed)
        with pytest.raises(KeyboardInterrupt):
            work(back, 3)
    work(back, 3)
    assert json.loads((tmp_path / "a" / "metrics.abandoned-1.jsonl").read_text())["step"] == 3


def test_timings_after_the_step_that_a_run_goes_back_to_are_kept_as_well(tmp_path: Path) -> None:
    with Run.open(config(tmp_path)) as run:
        run.begin({"counter": Counter()})
        for step in (1, 2):
            run.log({"timing/step": 0.5}, step=step)
            run.checkpoint(step, {"counter": Counter()})
    work(config(tmp_path, resume_step=1), 1)
    assert json.loads((tmp_path / "a" / "timings.abandoned-1.jsonl").read_text()) == {"step": 2, "timing/step": 0.5}


def test_a_damaged_checkpoint_of_a_phase_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def phase(stop_after: int) -> int:
        with Run.open(config(tmp_path, checkpoint=CheckpointConfig(every_steps=1))) as run:
            state = {"counter": Counter()}
            with run.phase("before", state, fingerprint="f") as restored:
                for step in run.steps(5, state, first=restored + 1):
                    if step.number == stop_after:
                        raise UserError("stopped here")
        return restored

    folder = tmp_path / "a" / ".phase-before"
    for damaged, expected in (([3], 2), ([2, 3], 0)):
        with pytest.raises(UserError, match="stopped here"):
            phase(4)
        for step in damaged:
            (folder / f"step_{step:08d}" / "counter" / "value.json").write_text("7")
        assert phase(0) == expected
        assert "is damaged (counter/value.json does not match its checksum) and not used" in capsys.readouterr().out
    with pytest.raises(UserError, match="stopped here"):
        phase(4)
    (folder / "step_00000003" / "loop" / "loop.json").write_text("[1]")
    assert phase(0) == 2


def test_an_input_folder_that_contains_the_run_is_equal_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1")
    settings = config(tmp_path / "outputs", choice={"path": str(tmp_path)})
    work(settings, 2)
    assert work(settings, 3) == 2


def test_digests_are_kept_if_the_start_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.txt").write_text("1")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    with (
        pytest.raises(UserError, match="no such model"),
        Run.open(config(tmp_path / "outputs", choice={"path": str(tmp_path / "data.txt")})),
    ):
        raise UserError("no such model")
    assert str(tmp_path / "data.txt") in (tmp_path / "outputs" / "cache" / "digests.json").read_text()


def test_the_lock_is_held_until_everything_is_written(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Slow(Tracks):
        def close(self) -> None:
            seen.append(is_locked(tmp_path / "a"))

    with pytest.raises(Interrupted), Run.open(config(tmp_path), tracker=Slow) as run:
        run.begin({"counter": Counter()})
        run._interruption.signal_number = signal.SIGTERM
        run.log({"value": 1}, step=1)
        run.stop(1)
    assert seen == [True]
    assert OwnFiles(tmp_path / "a").is_own("metrics.jsonl"), "the journal has the last checksum"
