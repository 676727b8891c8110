"""Run folders: what may be replaced, what stays, and the states that are refused."""

import json
import shutil
from pathlib import Path

import pytest

from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.directory import RunDirectory
from triptych.run.lock import FolderLock
from triptych.run.session import Run


def run(root: Path, name: str = "a", **changes: object) -> None:
    """A run that writes one file and finishes."""
    with Run.open(RunConfig(name=name, output_root=str(root), device="cpu", **changes)) as opened:  # type: ignore[arg-type]
        opened.begin({})
        opened.write_file("storyboard.json", json.dumps({"seed": opened.seed}))


def test_overwrite_replaces_own_files_and_keeps_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    folder = tmp_path / "a"
    (folder / "storyboard.json").write_text("edited by hand")
    (folder / "notes.md").write_text("mine")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "readme").write_text("mine")
    run(tmp_path, overwrite=True, seed=3)
    assert (folder / "storyboard.kept.json").read_text() == "edited by hand"
    assert json.loads((folder / "storyboard.json").read_text()) == {"seed": 3}
    assert (folder / "notes.md").read_text() == (folder / "checkpoints" / "readme").read_text() == "mine"
    said = capsys.readouterr().out
    assert "kept aside         storyboard.kept.json" in said
    assert "unchanged          checkpoints, notes.md" in said
    assert "replaced           5 files of an earlier run" in said


def test_a_copy_of_checkpoints_is_the_users(tmp_path: Path) -> None:
    class Nothing:
        def save(self, directory: Path) -> None: ...

        def load(self, directory: Path) -> None: ...

    with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu")) as opened:
        opened.begin({"nothing": Nothing()})
        opened.checkpoint(7, {"nothing": Nothing()})
    folder = tmp_path / "a"
    for copied in (folder / "backup", folder / "checkpoints" / "backup"):
        shutil.copytree(folder / "checkpoints", copied)
    run(tmp_path, overwrite=True)
    for copied in (folder / "backup", folder / "checkpoints" / "backup"):
        assert (copied / "step_00000007" / "manifest.json").is_file()
    assert not (folder / "checkpoints" / "step_00000007").exists()


def test_a_folder_with_another_run_or_a_held_lock_below_is_not_replaced(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, "a/seed=1")
    with pytest.raises(UserError, match=r"overwrite=true but .*a/seed=1 is another run, inside"):
        run(tmp_path, overwrite=True)
    for path in (tmp_path / "a" / "seed=1").iterdir():
        path.unlink()
    lock = FolderLock(tmp_path / "a" / "seed=1")
    lock.acquire()
    with pytest.raises(UserError, match="is another run, inside"):
        run(tmp_path, overwrite=True)
    lock.release()
    run(tmp_path, overwrite=True)


def test_the_output_root_is_no_run() -> None:
    with pytest.raises(UserError, match=r"name is '\.'"):
        RunConfig(name=".")


@pytest.mark.parametrize("content", ["a: [1, 2", "[1]", "", "\0\0\0", "a: " + "[" * 3000])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    run(tmp_path)
    (tmp_path / "a" / "config.yaml").write_text(content)
    (tmp_path / "a" / "summary.json").write_text("{}")
    for changes in ({"overwrite": True}, {}):
        with pytest.raises(UserError, match=r"config\.yaml .*: ") as caught:
            run(tmp_path, **changes)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "a" / "config.yaml").read_text() == content


def test_another_command_is_not_replaced_but_another_version_of_the_same_one_is(tmp_path: Path) -> None:
    run(tmp_path)
    config = tmp_path / "a" / "config.yaml"
    without = "".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith(("changed", "profile")))
    config.write_text(without)
    run(tmp_path, overwrite=True)
    config.write_text(config.read_text() + "trainer: {}\n")
    with pytest.raises(UserError, match="not an earlier run of this command"):
        run(tmp_path, overwrite=True)


def test_a_folder_that_vanishes_between_its_making_and_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire, calls = FolderLock.acquire, []

    def vanish(self: FolderLock) -> None:
        calls.append(1)
        if len(calls) == 1:
            (tmp_path / "a").rmdir()  # another run, which made the folder and did not begin
        acquire(self)

    monkeypatch.setattr(FolderLock, "acquire", vanish)
    folder = RunDirectory(tmp_path / "a")
    folder.claim()
    assert len(calls) == 2
    folder.close()
    assert list(tmp_path.iterdir()) == []
