"""`triptych doctor`: one page that a report of a problem needs, also beside broken runs."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from triptych.commands import doctor
from triptych.commands.optional import OptionalLibrary


def test_the_page_names_versions_devices_missing_extras_and_broken_runs(
    tmp_path: Path, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "good", summary={"a": 1})
    run(tmp_path, "bad", summary={"a": 1})
    (tmp_path / "bad" / "summary.json").write_text("{")
    libraries = [OptionalLibrary("torch", "m", "x[torch]"), OptionalLibrary("unheard_of", "m", "x[extra]")]
    monkeypatch.setattr(doctor, "optional_libraries", lambda: libraries)
    page = doctor.diagnose(tmp_path)
    assert f"  torch {version('torch')}" in page
    assert f"  triptych-core {version('triptych-core')}" in page
    assert "  unheard_of: missing, install it with pip install 'x[extra]'" in page
    assert "  torch: installed" in page
    assert f"runs        2 below {tmp_path}, 1 broken" in page
    assert "  bad: broken: summary.json is not JSON" in page
    assert ("no CUDA device" in page) == (not torch.cuda.is_available())


def test_without_runs_the_page_says_so(tmp_path: Path) -> None:
    assert f"none: there is no folder {tmp_path / 'absent'}" in doctor.diagnose(tmp_path / "absent")
