"""What is saved beside a policy: how it is prompted, and what it was trained on."""

from pathlib import Path

import pytest

from gspo_rl.models.recorded import read_recorded, write_recorded
from triptych.errors import UserError


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = {"chat": True, "template": {"system": "be brief"}, "training": {"task": {"_target_": "a.B"}, "sampling": {"max_tokens": 4}}}
    write_recorded(tmp_path, **written)  # type: ignore[arg-type]
    assert read_recorded(tmp_path) == written


@pytest.mark.parametrize("text", [None, "[]", '{"chat": 1, "template": [], "training": "x"}'])
def test_a_folder_from_elsewhere_has_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "prompting.json").write_text(text)
    assert read_recorded(tmp_path) == {"chat": False, "template": {}, "training": None}


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompting.json").write_text("{")
    with pytest.raises(UserError, match="save the policy again"):
        read_recorded(tmp_path)
