"""Atomic writes."""

import json
from pathlib import Path

from triptych.files import write_atomically


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, json.dumps({"a": "\u00e9"}))
    write_atomically(path, "{}")
    assert path.read_text() == "{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
