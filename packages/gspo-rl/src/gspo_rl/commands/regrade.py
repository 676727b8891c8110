"""`triptych regrade`: grades the stored completions of a run again, by its task as it is now."""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.records import Record, read_records
from gspo_rl.rewards import TASK, guarded, task_reward
from gspo_rl.tasks import Task
from triptych.commands.build import build
from triptych.commands.main import Verbs
from triptych.errors import UserError
from triptych.files import read_yaml

_SHOWN = 5


def _regrade(arguments: argparse.Namespace) -> str:
    settings = read_yaml(arguments.run / "config.yaml", "give the folder of a run")
    if not isinstance(settings.get("task"), dict):
        raise UserError(f"{arguments.run / 'config.yaml'} names no task: give the folder of a run of gspo-train")
    task: Task = build(settings["task"])
    lines, differing = [f"{'record':24} {'completions':>12} {'reward':>8} {'again':>8} {'changed':>8}"], []
    for record in read_records(arguments.run):
        before, after = _rewards(record, task)
        changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if abs(old - new) > 1e-6]
        differing += [(record, index, before[index], after[index]) for index in changed]
        name = f"{record.kind} {record.step}"
        lines.append(f"{name:24} {len(before):12d} {fmean(before):8.4f} {fmean(after):8.4f} {len(changed):8d}")
    for record, index, old, new in differing[:_SHOWN]:
        row = record.rows[index]
        lines.append(
            f"{record.kind} {record.step}, {old:g} -> {new:g}: {row['prompt'][-60:]!r} (answer {row['answer']!r}) {row['text'][-80:]!r}"
        )
    lines.append(f"{len(differing)} rewards differ")
    return "\n".join(lines)


def _rewards(record: Record, task: Task) -> tuple[list[float], list[float]]:
    """The stored rewards of the task, and those of now."""
    prompts = [_prompt(row, task) for row in record.rows]
    completions = []
    for row in record.rows:
        tokens = torch.tensor(row["token_ids"])
        completions.append(Completion((), tokens, torch.zeros(len(tokens)), row["text"], row["finished"], row["weight_version"]))
    after, _ = guarded(task_reward(task), prompts, completions)
    return [float(row["rewards"][TASK]) for row in record.rows], after


def _prompt(row: dict[str, Any], task: Task) -> Prompt:
    prompts = task.prompts(row["split"])
    prompt = prompts[row["index"]] if row["index"] < len(prompts) else None
    # The answer may have been corrected since.
    if prompt is None or prompt.text != row["prompt"] or prompt.conversation != row.get("messages", prompt.conversation):
        raise UserError(f"prompt {row['index']} of the {row['split']} split is another one than in the run: restore the task's data")
    return prompt


def register(verbs: Verbs) -> None:
    """Adds the subcommand `regrade`."""
    parser = verbs.add_parser("regrade", help="grade the stored completions of a run again, by its task as it is now")
    parser.add_argument("run", type=Path)
    parser.set_defaults(answer=_regrade)
