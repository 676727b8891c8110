"""Fixture that runs commands with the arguments of a shell, in a fork instead of a new interpreter."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from projects import ROOT, commands

# The default job at small size: one or two seconds.
QUICK = [
    "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32", "cold_start.steps=4", "trainer.max_steps=2",
    "trainer.prompts_per_step=4", "trainer.group_size=4", "evaluation.num_prompts=8", "evaluation.num_samples=2",
]  # fmt: skip


class Outcome(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a command in a fork of this process, in an empty folder, with the project's configs."""

    def run(name: str, *arguments: str, quick: bool = True, folder: Path | None = None) -> Outcome:
        files = [tmp_path / f"{stream}.txt" for stream in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                torch.set_num_threads(torch.get_num_threads())  # renews torch's pool before two threads use it at once
                for descriptor, file in enumerate(files, start=1):
                    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
                os.environ["TRIPTYCH_CONFIGS"] = str(ROOT / "configs")
                os.chdir(folder or tmp_path)
                sys.argv = [f"{name}.py", *(QUICK if quick and name == "train_gspo" else []), *arguments]
                commands()[name]()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return Outcome(os.waitstatus_to_exitcode(status), *(file.read_text() for file in files))

    return run
