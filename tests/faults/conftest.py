"""Small real runs in subprocesses, for tests that kill or hang them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32", "cold_start.steps=4", "trainer.prompts_per_step=16",
    "trainer.group_size=4", "evaluation.num_prompts=8", "evaluation.num_samples=2", "sampling.max_tokens=24", "device=cpu",
    "checkpoint.every_steps=3", "output_root=.",
]  # fmt: skip


class Victim:
    """A training in one or two processes."""

    def __init__(self, folder: Path, name: str, *arguments: str, processes: int = 1) -> None:
        launcher = ["-m"] if processes == 1 else ["-m", "triptych.commands.launch", "--standalone", f"--nproc-per-node={processes}", "-m"]
        environment = {**os.environ, "TRIPTYCH_CONFIGS": str(ROOT / "configs"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.folder = folder / name
        self.process = subprocess.Popen(
            [sys.executable, *launcher, "gspo_rl.commands.train", *SMALL, f"name={name}", *arguments], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    @property
    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in order; with one process, its own."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) if variables else 0
            except (OSError, ValueError):
                continue
            rank = next((int(item[5:]) for item in variables if item.startswith(b"RANK=")), None)
            if rank is not None and parent == self.process.pid:
                found[rank] = int(entry.name)
        return [found[rank] for rank in sorted(found)] or [self.process.pid]

    def wait_for_step(self, step: int, *, seconds: float = 120) -> None:
        """Returns when the step is in metrics.jsonl, so that the run is inside the next step."""
        deadline = time.monotonic() + seconds
        while not any(row["step"] >= step for row in self.rows):
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, f"the run does not reach step {step}"
            time.sleep(0.005)

    def end(self, *, seconds: float = 120) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Callable[..., Victim]]:
    started: list[Victim] = []

    def start(name: str, *arguments: str, processes: int = 1) -> Victim:
        started.append(Victim(tmp_path, name, *arguments, processes=processes))
        return started[-1]

    yield start
    for item in started:
        if item.process.poll() is None:
            os.killpg(item.process.pid, signal.SIGKILL)
            item.process.wait()
