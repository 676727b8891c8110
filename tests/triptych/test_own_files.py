"""Files of one folder: own ones are replaced and removed, all others stay, whatever happens between."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.own_files import JOURNAL, OwnFiles


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL}


def test_own_files_are_replaced_and_edited_ones_kept(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    own.write("a.json", "1")
    own.write("a.json", "2")
    assert contents(tmp_path) == {"a.json": "2"}
    (tmp_path / "a.json").write_text("edited")
    assert not own.is_own("a.json")
    OwnFiles(tmp_path).write("a.json", "3")  # another invocation
    assert contents(tmp_path) == {"a.json": "3", "a.kept.json": "edited"}
    (tmp_path / "a.json").write_text("edited again")
    own.write("a.json", "4")
    assert contents(tmp_path) == {"a.json": "4", "a.kept.json": "edited", "a.kept-2.json": "edited again"}


def test_an_edit_that_equals_the_new_content_needs_no_copy(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    (tmp_path / "a").write_text("same")
    own.write("a", "same")
    assert contents(tmp_path) == {"a": "same"}
    assert own.is_own("a")


def test_clear_removes_own_files_and_empty_folders_only(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    for name in ("top.txt", "frames/1.png", "frames/2.png", "clips/1.mp4"):
        own.write(name, name)
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    (tmp_path / "frames" / "2.png").write_text("retouched")
    (tmp_path / "foreign").mkdir()
    cleared = OwnFiles(tmp_path).clear()
    assert cleared.removed == ["clips/1.mp4", "frames/1.png", "top.txt"]
    assert cleared.kept == ["frames/2.kept.png"]
    assert contents(tmp_path) == {"frames/notes.txt": "mine", "frames/2.kept.png": "retouched"}
    assert (tmp_path / "foreign").is_dir()
    assert not (tmp_path / "clips").exists()
    assert (tmp_path / JOURNAL).read_text() == "", "it marks the folder as one of a run"
    assert OwnFiles(tmp_path).clear() == ([], []), "nothing is known any more"


def test_links_and_folders_in_the_way_are_kept(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    target = own.write("real", "x")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file where a folder is needed")
    own.write("link", "x")
    own.write("folder", "y")
    own.write("file/inner", "z")
    assert (tmp_path / "link.kept").is_symlink()
    assert (tmp_path / "folder.kept").is_dir()
    assert (tmp_path / "file.kept").read_text() == "a file where a folder is needed"
    assert contents(tmp_path)["file/inner"] == "z"


def test_a_folder_is_installed_over_an_older_one(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    for number, names in enumerate([("1", "2", "deep/3"), ("1", "4")]):
        partial = tmp_path / ".model.partial"
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(f"{name} of {number}")
        (partial / "1").chmod(0o600)
        own.install(partial, "model")
        assert not partial.exists()
    assert contents(tmp_path / "model") == {"1": "1 of 1", "2": "2 of 0", "deep/3": "deep/3 of 0", "4": "4 of 1"}
    assert (tmp_path / "model" / "1").stat().st_mode & 0o777 == 0o666 & ~_umask(), "the group may read what the user's umask lets it"
    (tmp_path / "model" / "4").write_text("edited")
    (tmp_path / ".one").write_text("new")
    own.install(tmp_path / ".one", "model/4")
    assert contents(tmp_path / "model")["4"] == "new"
    assert contents(tmp_path / "model")["4.kept"] == "edited"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_log_that_a_kill_left_open_is_continued_but_not_removed(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    path = own.open_log("log", "1\n")
    with path.open("a") as file:
        file.write("2\n")
    # The process was killed here.
    again = OwnFiles(tmp_path)
    assert again.open_log("log", "1\n").read_text() == "1\n"
    path.write_text("1\n2\n")
    assert OwnFiles(tmp_path).clear().kept == ["log.kept"], "what was written since is not known to be a command's"
    assert contents(tmp_path) == {"log.kept": "1\n2\n"}


def test_a_closed_log_that_was_edited_is_kept(tmp_path: Path) -> None:
    own = OwnFiles(tmp_path)
    path = own.open_log("log", "")
    path.write_text("1\n")
    own.close_log("log")
    assert OwnFiles(tmp_path).is_own("log")
    path.write_text("1\nedited\n")
    OwnFiles(tmp_path).open_log("log", "1\n")
    assert contents(tmp_path) == {"log": "1\n", "log.kept": "1\nedited\n"}


def test_a_damaged_journal_makes_files_foreign_and_leads_nowhere_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    OwnFiles(folder).write("a", "1")
    digest = json.loads((folder / JOURNAL).read_text())["sha256"]
    OwnFiles(folder.parent).write("x", "1")
    lines = [{"path": "../x", "sha256": digest}, {"path": str(tmp_path / "x"), "sha256": digest}]
    with (folder / JOURNAL).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + "[1]\n{\n" + "[" * 100_000 + "\n" + '{"path": "b", "sh')
    own = OwnFiles(folder)
    own.write("c", "after the truncated line")
    assert OwnFiles(folder).clear() == (["a", "c"], [])
    assert (tmp_path / "x").read_text() == "1"
    assert outside.read_text() == "mine"


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "edit", "foreign", "clear", "remove"]), st.sampled_from(["a", "b.txt", "d/a", "d/e/b.txt"]), st.integers(0, 3)),
    max_size=25,
)  # fmt: skip


@given(OPERATIONS)
def test_no_text_that_a_person_wrote_is_ever_lost(operations: list[tuple[str, str, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_hand: set[str] = set()
        for index, (kind, file, number) in enumerate(operations):
            own = OwnFiles(folder)
            if kind == "write":
                own.write(file, f"command {number}")
            elif kind == "clear":
                own.clear()
            elif kind == "remove":
                own.remove([file])
            elif kind == "foreign" or (folder / file).is_file():
                path = folder / (file if kind == "edit" else f"mine{index}")
                path.write_text(f"by hand {index}")
                if kind == "edit":
                    by_hand = {text for text in by_hand if text in contents(folder).values()}  # an edit may replace an earlier edit
                by_hand.add(f"by hand {index}")
            assert by_hand <= set(contents(folder).values())


def test_files_get_the_permissions_of_new_files(tmp_path: Path) -> None:
    path = OwnFiles(tmp_path).write("a", "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def test_what_is_written_is_known_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("triptych.own_files.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        OwnFiles(tmp_path).write("a", "1")
    assert json.loads((tmp_path / JOURNAL).read_text())["path"] == "a"


def test_the_journal_of_a_copied_folder_is_not_installed(tmp_path: Path) -> None:
    OwnFiles(tmp_path).write("a", "1")
    other = tmp_path / "other"
    other.mkdir()
    OwnFiles(other).write("b", "2")
    own = OwnFiles(tmp_path)
    own.install(other)
    assert contents(tmp_path) == {"a": "1", "b": "2"}
    assert own.is_own("a")
    assert own.is_own("b")
    assert not other.exists()
