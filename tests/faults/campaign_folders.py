"""Random operations on a folder of runs: start, kill, rename, edit, start again. No file of the user may be lost or changed.

    python tests/faults/campaign_folders.py [operations] [seed]

Files of the user are foreign files anywhere below the folder, edited results of runs, and copies of checkpoints; each is hashed
before and after every operation. An edited file may have been renamed `<stem>.kept<suffix>`: its content must still be there.
Prints the counts, and exits with 1 at the first difference.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

# A run of a fraction of a second with everything that writes into a folder: checkpoints, logs, staged folders, a phase before.
PROGRAM = textwrap.dedent(
    """
    import json, sys, time
    from dataclasses import dataclass
    from triptych.checkpoint.checkpointer import CheckpointConfig
    from triptych.errors import UserError
    from triptych.report import ReportConfig
    from triptych.run.config import RunConfig
    from triptych.run.session import Run
    from triptych.run.signals import Interrupted

    class Counter:
        value = 0
        def save(self, directory): (directory / "value.json").write_text(json.dumps(self.value))
        def load(self, directory): self.value = json.loads((directory / "value.json").read_text())

    root, name, seed, steps, overwrite, resume_step = sys.argv[1:]
    settings = RunConfig(name=name, seed=int(seed), output_root=root, device="cpu", overwrite=overwrite == "True",
                         resume_step=None if resume_step == "None" else int(resume_step), checkpoint=CheckpointConfig(every_steps=2))
    try:
        with Run.open(settings) as run:
            counter = Counter()
            state = {"counter": counter}
            if not run.checkpoint_steps:
                with run.phase("before", state, fingerprint=seed) as restored:
                    for step in run.steps(4, state, first=restored + 1):
                        time.sleep(0.01)
            counter.value = 0
            first = run.begin(state) or 0
            for step in run.steps(int(steps), state, first=first + 1):
                counter.value += step.number
                step.metrics["value"] = float(counter.value)
                time.sleep(0.01)
            with run.staging("images") as folder:
                for index in range(3):
                    (folder / f"{index}.txt").write_text(f"{seed} {index}")
            run.write_file("storyboard.json", json.dumps({"seed": run.seed}))
            run.finish({"value": counter.value}, report=ReportConfig("campaign"))
    except UserError as error:
        sys.exit(f"refused: {error}")
    except Interrupted:
        sys.exit(143)
    """
)
EDITABLE = ("storyboard.json", "report.html", "summary.json", "images/1.txt")


class Campaign:
    """The folder, and the texts in it that the user wrote."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng
        self.mine: dict[str, str] = {}  # SHA-256 -> how it came there
        self.counts: Counter[str] = Counter()

    def lost(self) -> list[str]:
        """What is no longer anywhere below the folder."""
        present = {
            hashlib.sha256(path.read_bytes()).hexdigest() for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()
        }
        return [how for digest, how in self.mine.items() if digest not in present]

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.root.rglob("config.yaml"))

    def start(self) -> None:
        """A run under a known or a new name; half of them are killed."""
        names = [str(path.relative_to(self.root)) for path in self.runs()]
        name = self.rng.choice([*names, f"run{self.rng.randrange(6)}", f"sweep/seed={self.rng.randrange(3)}"])
        arguments = [
            name,
            self.rng.choice("00001"),
            self.rng.choice(["6", "10"]),
            str(self.rng.random() < 0.4),
            self.rng.choice(["None"] * 4 + ["2", "4"]),
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.root), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(1.5, 3.5))
            process.send_signal(self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
        _, err = process.communicate(timeout=120)
        assert "Traceback" not in err or process.returncode < 0, err
        self.counts[{0: "finished", 1: "refused", 143: "terminated"}.get(process.returncode, "killed")] += 1

    def edit(self) -> None:
        """An own file of a run, edited by the user, who may overwrite an earlier edit."""
        files = [path / name for path in self.runs() for name in EDITABLE if (path / name).is_file()]
        if files:
            path = self.rng.choice(files)
            self.mine.pop(hashlib.sha256(path.read_bytes()).hexdigest(), None)
            self.write(path, f"edited {path.name}")

    def write(self, path: Path, how: str) -> None:
        path.write_text(f"{how} {self.rng.random()}")
        self.mine[hashlib.sha256(path.read_bytes()).hexdigest()] = f"{how} at {path.relative_to(self.root)}"
        self.counts[how.split()[0]] += 1

    def add(self) -> None:
        """A foreign file in any folder, also inside a checkpoint, or in the place of a result."""
        folders = [self.root, *sorted(path for path in self.root.rglob("*") if path.is_dir() and ".partial" not in path.name)]
        path = self.rng.choice(folders) / self.rng.choice(
            ["notes.md", "metrics.abandoned-1.jsonl", "sweep.csv", f"file{self.rng.randrange(99)}"]
        )
        if not path.exists():
            self.write(path, "foreign")

    def rename(self) -> None:
        """A run gets another name or place, or a copy of a checkpoint is put beside it."""
        runs = self.runs()
        if not runs:
            return
        run = self.rng.choice(runs)
        target = run.with_name(f"renamed{self.rng.randrange(1000)}")
        checkpoints = sorted((run / "checkpoints").glob("step_*"))
        if checkpoints and self.rng.random() < 0.4:
            copied = self.rng.choice(checkpoints)
            place = self.rng.choice(
                [run / "checkpoints" / f"my_{copied.name}", run / "backup" / copied.name, run / "checkpoints" / "old" / copied.name]
            )
            shutil.copytree(copied, place.parent / f"{self.rng.randrange(1000)}" / place.name)
            for path in copied.rglob("*.json"):
                self.mine.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), f"copy of {copied.name}")
            self.counts["copied"] += 1
        elif not target.exists():
            run.rename(target)
            self.counts["renamed"] += 1


def main() -> int:
    num_operations, seed = (int(given) for given in (*sys.argv[1:3], *("200", "0")[len(sys.argv) - 1 :]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        campaign = Campaign(Path(name), rng)
        for index in range(num_operations):
            operation = rng.choice([campaign.start] * 5 + [campaign.edit, campaign.edit, campaign.add, campaign.add, campaign.rename])
            operation()
            lost = campaign.lost()
            if lost:
                print(f"operation {index} ({operation.__name__}): lost {lost[0]}")
                return 1
        kept = len(list(Path(name).rglob("*.kept*")))
        done = ", ".join(f"{count} {what}" for what, count in sorted(campaign.counts.items()))
        print(f"{num_operations} operations (seed {seed}: {done}; {len(campaign.mine)} files of the user, {kept} kept aside): 0 differ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
