"""Manifests: the exact set of files, and removal of nothing else."""

import json
import os
from pathlib import Path

import pytest

from triptych.checkpoint.manifest import MANIFEST, damage_of, read_manifest, remove_listed, write_manifest
from triptych.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "step_00000007"
    (made / "model").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "model" / "weights").write_bytes(b"1234")
    (made / "model" / "weights").chmod(0o600)
    (made / "loop.json").write_text("{}")
    write_manifest(made, 7)
    return made


def test_an_intact_checkpoint_is_readable_by_the_group(folder: Path) -> None:
    assert damage_of(folder, 7) is None
    step, entries = read_manifest(folder)
    assert (step, sorted(entries)) == (7, ["loop.json", "model/weights"])
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "extra").touch(), "extra is not in manifest.json"),
        (lambda folder: (folder / "model" / "extra").symlink_to(folder / "loop.json"), "model/extra is not in manifest.json"),
        (lambda folder: (folder / "loop.json").unlink(), "loop.json is missing"),
        (lambda folder: (folder / "loop.json").write_text("{} "), "loop.json has 3 bytes instead of 2"),
        (lambda folder: (folder / "loop.json").write_text("[]"), "loop.json does not match its checksum"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "manifest.json is missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": {}}'), "manifest.json is missing or unreadable"),
    ],
)
def test_every_damage_is_named(folder: Path, change: object, reason: str) -> None:
    change(folder)  # type: ignore[operator]
    assert damage_of(folder, 7) == reason


def test_a_manifest_of_another_step_is_damage(folder: Path) -> None:
    assert damage_of(folder, 50) == "manifest.json is of step 7, rename the folder back to step_00000007"


def test_only_listed_and_unchanged_files_are_removed(folder: Path) -> None:
    (folder / "notes").write_text("mine")
    (folder / "loop.json").write_text("[]")  # same size
    os.utime(folder / "loop.json", (2e9, 2e9))
    assert not remove_listed(folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == ["loop.json", "notes"]


def test_a_copied_checkpoint_is_removed_whatever_its_times(folder: Path) -> None:
    os.utime(folder / MANIFEST, (1, 1))
    assert remove_listed(folder)
    assert not folder.exists()


def test_a_checkpoint_without_a_readable_manifest_stays(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    assert not remove_listed(folder)
    assert (folder / "model" / "weights").exists()
    with pytest.raises(UserError, match="is not JSON"):
        read_manifest(folder)


def test_a_half_removed_checkpoint_is_removed(folder: Path) -> None:
    (folder / "model" / "weights").unlink()
    assert remove_listed(folder)
    entry = json.dumps({"step": 7, "files": {}})
    folder.mkdir()
    (folder / MANIFEST).write_text(entry)
    assert remove_listed(folder)
