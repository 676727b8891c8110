"""`triptych results`: writes the page of the installed panels below the given folder."""

import sys
from pathlib import Path

import pytest

from projects import ROOT
from triptych.commands.main import main


def test_the_command_writes_page_and_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["triptych", "results", "--experiments", str(ROOT / "experiments"), "--docs", str(tmp_path)])
    main()
    printed = capsys.readouterr().out.split()
    assert str(tmp_path / "results.md") in printed
    assert all(Path(path).is_file() for path in printed)
    assert (tmp_path / "results.md").read_bytes() == (ROOT / "docs" / "results.md").read_bytes()
