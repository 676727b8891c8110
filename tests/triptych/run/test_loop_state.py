"""The step inside a checkpoint: equal to the folder's name, or refused."""

from pathlib import Path

import pytest

from triptych.errors import UserError
from triptych.run.loop_state import LoopState


def test_the_step_and_the_name_of_the_folder_agree(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000012" / "loop"
    folder.mkdir(parents=True)
    LoopState(12, is_main=True, fingerprint="f").save(folder)
    LoopState(None, is_main=False, fingerprint=None).load(folder)
    assert LoopState.fingerprint_in(folder.parent) == "f"
    (tmp_path / "step_00000013").mkdir()
    moved = folder.rename(tmp_path / "step_00000013" / "loop")
    with pytest.raises(UserError, match="holds the state of step 12: rename the folder back to step_00000012"):
        LoopState(None, is_main=True, fingerprint=None).load(moved)
    assert LoopState.fingerprint_in(tmp_path / "absent") is None


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    LoopState(1, is_main=False, fingerprint=None).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
