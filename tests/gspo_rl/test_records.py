"""Stored completions: the same bytes for the same rows, read back in order, damage named."""

from pathlib import Path

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.records import completion_row, packed, read_records, record_name
from triptych.errors import UserError

ROW = completion_row(
    "train", 3, Prompt("1+1=", "2"), Completion((1,), torch.tensor([5, 6]), torch.zeros(2), "2\u2028\ud800é", True, 7), {"task": 1.0}
)


def write(run: Path, kind: str, step: int, rows: list[dict[str, object]]) -> Path:
    path = run / record_name(kind, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(rows))
    return path


def test_rows_survive_and_are_read_in_the_order_of_the_steps(tmp_path: Path) -> None:
    for kind, step in (("step", 10), ("step", 9), ("evaluation", 10), ("evaluation", 0)):
        write(tmp_path, kind, step, [ROW, {**ROW, "index": step}])
    records = list(read_records(tmp_path))
    assert [(record.kind, record.step) for record in records] == [("evaluation", 0), ("step", 9), ("evaluation", 10), ("step", 10)]
    assert all(record.rows == [ROW, {**ROW, "index": record.step}] for record in records)
    assert ROW["token_ids"] == [5, 6]
    assert packed([ROW]) == packed([dict(ROW)])


def test_damaged_and_missing_records_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no completions"):
        list(read_records(tmp_path))
    path = write(tmp_path, "step", 1, [ROW])
    content = path.read_bytes()
    for damaged in (content[:-9], b"", content[:20] + b"x" + content[21:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step_00000001\.jsonl\.gz.* restore it") as caught:
            list(read_records(tmp_path))
        assert "\n" not in str(caught.value)
