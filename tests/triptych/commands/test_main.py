"""`triptych`: subcommands from entry points, printed answers, and one-line errors."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from triptych.commands.main import GROUP, main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["triptych", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_help_lists_every_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    names = {point.name for point in entry_points(group=GROUP)}
    assert {"runs", "tail", "export", "record", "pack", "sweep-report"} <= names
    assert names <= {line.split()[0] for line in printed.splitlines() if line.startswith("    ")}


def test_an_answer_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(monkeypatch, "runs", str(tmp_path)) == 0
    assert capsys.readouterr() == ("run  state  step\n", "")


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(monkeypatch, "runs", str(tmp_path / "absent")) == 2
    assert capsys.readouterr() == (
        "",
        f"error: there is no folder {tmp_path / 'absent'}: give the folder that holds the runs (output_root)\n",
    )
    assert run(monkeypatch) == 2, "a subcommand is required"


def test_an_error_of_the_file_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.mkdir()
    assert run(monkeypatch, "tail", str(tmp_path)) == 2
    assert capsys.readouterr() == ("", f"error: {path} cannot be read (Is a directory): check its permissions and its disk\n")
