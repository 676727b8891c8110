"""Checkpoints are atomic, verified before use, and kept when a later save fails."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from triptych.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from triptych.distributed import World
from triptych.errors import UserError


class Part:
    """A component with one tensor and one text file."""

    def __init__(self, value: float, size: int = 1000) -> None:
        self.tensor = torch.full((size,), value)
        self.fails: BaseException | None = None

    def save(self, directory: Path) -> None:
        torch.save(self.tensor, directory / "tensor.pt")
        (directory / "note.txt").write_text(str(float(self.tensor[0])))
        if self.fails is not None:
            raise self.fails

    def load(self, directory: Path) -> None:
        self.tensor = torch.load(directory / "tensor.pt", weights_only=True)


@pytest.fixture
def checkpointer(tmp_path: Path) -> Checkpointer:
    return Checkpointer(tmp_path / "checkpoints", World(), keep=3)


def test_the_newest_checkpoint_is_restored(checkpointer: Checkpointer) -> None:
    for step in (5, 10, 15):
        checkpointer.save(step, {"part": Part(step), "other": Part(-step)})
    part, other = Part(0), Part(0)
    assert checkpointer.restore({"part": part, "other": other}) == 15
    assert (float(part.tensor[0]), float(other.tensor[0])) == (15, -15)


def test_restoring_without_a_checkpoint_returns_none(checkpointer: Checkpointer) -> None:
    assert checkpointer.restore({"part": Part(0)}) is None


def test_only_the_newest_are_kept(checkpointer: Checkpointer) -> None:
    for step in range(1, 8):
        checkpointer.save(step, {"part": Part(step)})
    assert checkpointer.steps() == [5, 6, 7]


def test_partial_folders_of_a_killed_save_are_removed(checkpointer: Checkpointer, tmp_path: Path) -> None:
    checkpointer.save(1, {"part": Part(1)})
    leftover = tmp_path / "checkpoints" / "step_00000002.partial"
    shutil.copytree(checkpointer.path(1), leftover)
    assert checkpointer.steps() == [1]
    assert checkpointer.restore({"part": Part(0)}) == 1
    assert not leftover.exists()


@pytest.mark.faults
def test_a_kill_while_a_checkpoint_is_replaced_leaves_one_of_the_two(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may be saved twice, as with a half-used batch: here the process ends between the two renames."""
    checkpointer.save(5, {"part": Part(1)})
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        checkpointer.save(5, {"part": Part(2)})
    part = Part(0)
    assert checkpointer.restore({"part": part}) == 5
    assert part.tensor[0] == 1
    checkpointer.save(5, {"part": Part(3)})
    assert checkpointer.restore({"part": part}) == 5
    assert part.tensor[0] == 3
    assert [path.name for path in checkpointer.path(5).parent.iterdir()] == ["step_00000005"]


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: flip(folder / "part" / "tensor.pt", -500), "part/tensor.pt does not match its checksum"),
        (lambda folder: flip(folder / "part" / "note.txt", 0), "part/note.txt does not match its checksum"),
        (lambda folder: (folder / "part" / "tensor.pt").write_bytes(b"short"), "part/tensor.pt has 5 bytes instead of"),
        (lambda folder: (folder / "part" / "note.txt").unlink(), "part/note.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json is missing or unreadable"),
    ],
    ids=["tensor", "text", "truncated", "missing", "no-manifest", "empty-manifest"],
)
def test_damage_is_found_before_loading_and_the_message_names_the_previous_intact_checkpoint(
    checkpointer: Checkpointer, harm: object, message: str
) -> None:
    for step in (5, 10, 15):
        checkpointer.save(step, {"part": Part(step)})
    assert callable(harm)
    harm(checkpointer.path(15))
    harm(checkpointer.path(10))
    part = Part(0)
    with pytest.raises(UserError, match=message) as caught:
        checkpointer.restore({"part": part})
    assert "resume_step=5" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert float(part.tensor[0]) == 0
    assert checkpointer.steps() == [5, 10, 15]
    assert checkpointer.restore({"part": part}, step=5) == 5
    assert float(part.tensor[0]) == 5
    assert checkpointer.steps() == [5], "checkpoints newer than the chosen step are set aside"


def test_without_an_intact_checkpoint_the_message_suggests_overwrite(checkpointer: Checkpointer) -> None:
    checkpointer.save(5, {"part": Part(5)})
    flip(checkpointer.path(5) / "part" / "note.txt", 0)
    with pytest.raises(UserError, match="overwrite=true"):
        checkpointer.restore({"part": Part(0)})


def test_an_unknown_step_is_refused_with_the_existing_steps(checkpointer: Checkpointer) -> None:
    checkpointer.save(5, {"part": Part(5)})
    with pytest.raises(UserError, match="resume_step is 6 .* steps 5"):
        checkpointer.restore({"part": Part(0)}, step=6)


@pytest.mark.faults
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64")]
)
def test_a_failing_save_keeps_the_earlier_checkpoint_and_no_partial_folder(
    checkpointer: Checkpointer, tmp_path: Path, error: Exception
) -> None:
    checkpointer.save(5, {"part": Part(5)})
    bad = Part(10)
    bad.fails = error
    with pytest.raises(UserError, match=r"step 10 could not be written .*No space left on device.*step 5 is intact"):
        checkpointer.save(10, {"part": bad})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


def test_a_bug_keeps_its_traceback(checkpointer: Checkpointer) -> None:
    bad = Part(10)
    bad.fails = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        checkpointer.save(10, {"part": bad})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a 2 MB file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.faults
@pytest.mark.mount
def test_a_full_disk_keeps_the_last_intact_checkpoint(small_disk: Path) -> None:
    checkpointer = Checkpointer(small_disk / "checkpoints", World())
    checkpointer.save(5, {"part": Part(5, size=200_000)})  # 0.8 of 2 MB
    with pytest.raises(UserError, match=r"step 10 could not be written to .*MB free.*step 5 is intact"):
        checkpointer.save(10, {"part": Part(10, size=400_000)})
    part = Part(0)
    assert checkpointer.restore({"part": part}) == 5
    assert (part.tensor == 5).all()
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["step_00000005"]


@pytest.mark.faults
def test_a_kill_at_any_moment_of_saving_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    """A process saves without pause and is killed at six different moments; every folder with a final name must be intact."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_checkpointer import Part\n"
        "from triptych.checkpoint.checkpointer import Checkpointer; from triptych.distributed import World\n"
        "checkpointer = Checkpointer(Path(sys.argv[1]), World(), keep=2)\n"
        "step = max(checkpointer.steps(), default=0)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    step += 1\n"
        "    checkpointer.save(step, {'a': Part(step, 50_000), 'b': Part(step, 50_000)})\n"
    )
    reader = Checkpointer(tmp_path / "c", World())
    reached = 0
    for trial in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "c"), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1 + 0.017 * trial)
        process.kill()
        process.wait()
        for step in reader.steps():
            assert reader.damage(step) is None
        part = Part(0)
        restored = reader.restore({"a": part})
        assert restored is None or (float(part.tensor[0]) == restored >= reached)
        reached = restored or 0
    assert reached > 5


@pytest.mark.parametrize("wrong", [{"every_steps": 0}, {"keep": 0}])
def test_invalid_checkpoint_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"checkpoint.{next(iter(wrong))}"):
        CheckpointConfig(**wrong)
