"""W&B tracker: offline without an account, complete after a resume."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.own_files import OwnFiles
from triptych.telemetry.tracking.jsonl import JsonlTracker


def test_wandb_works_offline_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from triptych.telemetry.tracking.wandb import WandbTracker

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="tracker.mode is 'sometimes'"):
        WandbTracker(directory=tmp_path, run_id="a", name="a", config={}, mode="sometimes")
    tracker = WandbTracker(directory=tmp_path, run_id="abc", name="a", config={"seed": 0})
    tracker.log({"loss": 1.0}, step=1)
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-abc.wandb"))


def leveldb_log(data: bytes, offset: int) -> Iterator[bytes]:
    """The records of LevelDB's log format, which W&B uses: blocks of 32 KiB, chunks of (checksum, length, kind, bytes)."""
    position, whole = 0, b""
    while position < len(data):
        if (left := 32768 - (position + offset) % 32768) < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the only or the last chunk of a record
            yield whole
            whole = b""


def test_the_newest_offline_folder_of_a_resumed_run_holds_all_of_it(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    from triptych.telemetry.tracking.wandb import WandbTracker

    def begin(resume_step: int | None, steps: range) -> None:
        jsonl = JsonlTracker(OwnFiles(tmp_path), resume_step=resume_step)
        tracker = WandbTracker(directory=tmp_path, run_id="abc", name="a", config={})
        for step in steps:
            for each in (jsonl, tracker):
                each.log({"loss": 10.0 + step, "timing/seconds": 1.0}, step=step)
        jsonl.close()
        tracker.close()

    begin(None, range(1, 5))
    time.sleep(1.1)  # folder names of W&B have a resolution of one second
    begin(2, range(3, 6))
    records: list[Any] = []
    deadline = time.monotonic() + 60
    while not (records and records[-1].HasField("exit")):  # W&B's own process still writes after `finish`
        assert time.monotonic() < deadline, "W&B has not completed its file"
        time.sleep(0.05)
        [newest] = (tmp_path / "wandb" / "latest-run").glob("run-abc.wandb")
        records = [Record.FromString(data) for data in leveldb_log(newest.read_bytes()[7:], offset=7)]
    histories = [record.history.item for record in records if record.HasField("history")]
    rows = [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history} for history in histories]
    assert [(row["_step"], row["loss"]) for row in rows] == [(step, 10.0 + step) for step in range(1, 6)]
    assert all(row["timing/seconds"] == 1.0 for row in rows)


def test_a_resumed_run_continues_its_curve_and_an_overwritten_one_begins_another(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from triptych.run.config import RunConfig
    from triptych.run.session import Run
    from triptych.telemetry.tracking.wandb import WandbTracker

    class Nothing:
        def save(self, directory: Path) -> None: ...

        def load(self, directory: Path) -> None: ...

    def ids() -> list[str]:
        """In order of their folders, `offline-run-<time>-<id>`."""
        return [path.name.rsplit("-", 1)[1] for path in sorted((tmp_path / "a" / "wandb").glob("offline-run-*"))]

    def work(steps: range, **changes: Any) -> None:
        with Run.open(RunConfig(name="a", output_root=str(tmp_path), device="cpu", **changes), tracker=WandbTracker) as run:
            run.begin({"nothing": Nothing()})
            for step in steps:
                run.log({"loss": 1.0}, step=step)
                run.checkpoint(step, {"nothing": Nothing()})
        time.sleep(1.1)  # folder names of W&B have a resolution of one second

    work(range(1, 3))
    work(range(3, 4))
    work(range(1, 2), overwrite=True)
    first, resumed, overwritten = ids()
    assert first == resumed
    assert overwritten != first
    assert len(first) == 16
