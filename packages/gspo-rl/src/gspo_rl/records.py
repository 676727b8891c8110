"""Every completion of a run on disk, so that the run can be audited and graded again."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gspo_rl.data.batch import Completion, Prompt
from triptych.errors import UserError
from triptych.files import parse_json

FOLDER = "completions"
_NAME = re.compile(r"(step|evaluation)_(\d{8})\.jsonl\.gz")


class Record(NamedTuple):
    """The completions of one step, or of one evaluation.

    Attributes:
        kind: `step` or `evaluation`.
        step: its number.
        rows: see `completion_row`.
    """

    kind: str
    step: int
    rows: list[dict[str, Any]]


def completion_row(split: str, index: int, prompt: Prompt, completion: Completion, rewards: Mapping[str, float]) -> dict[str, Any]:
    """One completion as plain values.

    Args:
        split: of the prompt.
        index: of the prompt in it, unless the prompt has one of its own.
        prompt: the prompt.
        completion: the completion.
        rewards: its rewards by name, before their weights.
    """
    return {
        "split": split,
        "index": index if prompt.index is None else prompt.index,
        "prompt": prompt.text,
        **({"messages": prompt.conversation} if prompt.messages else {}),
        "answer": prompt.answer,
        "token_ids": completion.token_ids.tolist(),
        "text": completion.text,
        "finished": completion.finished,
        "weight_version": completion.weight_version,
        "rewards": dict(rewards),
    }


def record_name(kind: str, step: int) -> str:
    """Path of a record in the folder of a run."""
    return f"{FOLDER}/{kind}_{step:08d}.jsonl.gz"


def packed(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of a record: the same bytes for the same rows."""
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def read_records(run: Path) -> Iterator[Record]:
    """The records of a run in the order of their steps.

    Raises:
        UserError: if there is none, or one is damaged.
    """
    found = [(match, path) for path in (run / FOLDER).glob("*") if (match := _NAME.fullmatch(path.name))]
    if not found:
        raise UserError(f"{run} holds no completions: give the folder of a run with trainer.store_completions=true")
    for match, path in sorted(found, key=lambda item: (int(item[0][2]), item[0][1])):
        try:
            text = gzip.decompress(path.read_bytes()).decode()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): restore it") from error
        if not text:
            raise UserError(f"{path} is empty: restore it")
        rows = [parse_json(line, f"{path}, line {number}", "restore it") for number, line in enumerate(text.splitlines(), start=1)]
        yield Record(match[1], int(match[2]), rows)
