"""Members of a sweep: folder names and GPU assignment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from triptych.commands.sweep import member_name

ROOT = Path(__file__).parents[3]


def test_a_member_name_is_one_folder_of_bounded_length() -> None:
    assert member_name("policy.path=../../a,seed=1") == "policy.path=.._.._a,seed=1"
    assert len(member_name("x" * 300).encode()) <= 200
    assert member_name("x" * 300) != member_name("x" * 301)
    assert member_name("") == "default"


SHOWN = """
import os
from pathlib import Path
from gspo_rl.commands.train import TrainConfig
from triptych.commands.entry_point import entry_point

def main(config: TrainConfig) -> None:
    Path(config.output_root, f"seed{config.seed}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])

if __name__ == "__main__":
    entry_point("gspo", "train", TrainConfig)(main)()
"""


def test_local_members_get_the_gpus_in_turn(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    (tmp_path / "shown.py").write_text(SHOWN)
    environment = {**os.environ, "TRIPTYCH_CONFIGS": str(ROOT / "configs"), "CUDA_VISIBLE_DEVICES": "3,5", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "shown.py", "-m", "cluster=local", "seed=0,1,2", "output_root=."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"seed{seed}").read_text() for seed in (0, 1, 2)] == ["3", "5", "3"]
