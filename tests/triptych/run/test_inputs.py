"""Inputs: which settings name files, and digests that follow every change of their content."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.run import inputs as module
from triptych.run.inputs import CACHE_FILE, InputDigests, find_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_that_name_existing_files_or_folders_are_inputs(here: Path) -> None:
    for name in ("questions.jsonl", "prompts", "train", "model/weights.safetensors", "deep/gspo/a.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("x")
    settings: dict[str, Any] = {
        "task": {"_target_": "deep/gspo", "path": "questions.jsonl", "held_out_path": "absent.jsonl", "split": "train"},
        "policy": {"path": "model", "name": "model"},
        "prompts": "prompts",
        "user": {"data": "./questions.jsonl", "anything": "deep/gspo", "number": 3, "none": None},
        "references": [{"path": "questions.jsonl"}, {"path": ""}],
        "texts": ["a" * 5000, "null\0", "a/b; c/d", "."],
        "keyframes_from": str(here / "deep"),
    }
    assert find_inputs(settings, run=here / "outputs" / "a") == {
        "task.path": Path("questions.jsonl"),
        "policy.path": Path("model"),
        "prompts": Path("prompts"),
        "user.data": Path("./questions.jsonl"),
        "user.anything": Path("deep/gspo"),
        "references.0.path": Path("questions.jsonl"),
        "keyframes_from": here / "deep",
    }


def test_the_own_folder_of_a_run_is_no_input(here: Path) -> None:
    (here / "outputs" / "film").mkdir(parents=True)
    (here / "outputs" / "film" / "storyboard.json").write_text("{}")
    settings = {"keyframes_from": "outputs/film", "storyboard": "outputs/film/storyboard.json"}
    assert find_inputs(settings, run=Path("outputs/film")) == {}
    assert set(find_inputs(settings, run=Path("outputs/other"))) == set(settings)


def test_digests_of_files_and_folders_follow_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    digests = InputDigests()
    first = digests.digest(folder)
    assert digests.digest(folder) == first
    (folder / ".hidden").write_text("ignored")
    assert digests.digest(folder) == first
    seen = {first}
    for change in (
        lambda: (folder / "a").write_text("2"),
        lambda: (folder / "sub" / "b").rename(folder / "sub" / "c"),
        lambda: (folder / "new").touch(),
        lambda: (folder / "a").unlink(),
    ):
        change()
        seen.add(digests.digest(folder))
    assert len(seen) == 5
    assert (
        digests.digest(tmp_path / "model" / "sub" / "c") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
    )  # sha256sum


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "weights", tmp_path / "cache"
    path.write_text("1")
    hashed: list[Path] = []
    digest = module.sha256
    monkeypatch.setattr(module, "sha256", lambda file: hashed.append(file) or digest(file))
    fresh = InputDigests(cache)
    fresh.digest(path)
    fresh.save()
    assert not (cache / CACHE_FILE).exists(), "a file that was just written may be written again within the resolution of its time"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    for expected in (2, 2):
        digests = InputDigests(cache)
        first = digests.digest(path)
        digests.save()
        assert len(hashed) == expected
    before = path.stat()
    path.write_text("2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of modification
    assert InputDigests(cache).digest(path) != first


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "[" * 100_000])
def test_a_damaged_cache_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / CACHE_FILE).write_text(content)
    (tmp_path / "a").write_text("1")
    assert InputDigests(tmp_path).digest(tmp_path / "a") == InputDigests().digest(tmp_path / "a")
    assert json.dumps(InputDigests(tmp_path)._known) == "{}"


def test_what_runs_write_below_an_input_folder_does_not_change_it(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("1")
    root = tmp_path / "books" / "outputs"
    digests = InputDigests(root / "cache", run=root / "a", output_root=root)
    first = digests.digest(tmp_path)
    for name in ("a/metrics.jsonl", "cache/digests.json", "sweep/b/config.yaml", "sweep/b/provenance.json", "sweep/b/policy/model"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    assert digests.digest(tmp_path) == digests.digest(tmp_path) == first
    seen = {first}
    for name in ("data", "books/train.jsonl", "books/outputs/train.jsonl", "books/outputs/model/weights"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("2")
        seen.add(digests.digest(tmp_path))
    assert len(seen) == 5, "data that no run wrote counts, wherever it lies"
    first = digests.digest(root / "sweep")
    (root / "sweep" / "b" / "policy" / "model").write_text("2")
    assert digests.digest(root / "sweep") != first, "a folder of runs that is named itself is an input"


def test_runs_that_start_together_share_a_cache(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))

    def start(name: str) -> None:
        for _ in range(20):
            digests = InputDigests(tmp_path / "cache")
            digests.digest(tmp_path / name)
            digests._is_changed = True
            digests.save()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, "abcdefgh"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [CACHE_FILE]
    assert (tmp_path / "cache" / CACHE_FILE).stat().st_mode == (tmp_path / "a").stat().st_mode, "a lab shares it"
    (tmp_path / "file").write_text("")
    digests = InputDigests(tmp_path / "file" / "cache")
    digests._is_changed = True
    digests.save()


def test_a_pipe_is_not_read(here: Path) -> None:
    os.mkfifo(here / "pipe.jsonl")
    assert find_inputs({"path": "pipe.jsonl"}, run=here / "a") == {}
