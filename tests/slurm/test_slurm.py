"""Sweeps, preemption and several tasks on a real Slurm cluster inside this machine; `make test-slurm` installs what it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).parent / "cluster.sh"
SMALL = [
    "policy.hidden_size=32", "policy.num_layers=1", "policy.intermediate_size=32", "cold_start.steps=4", "trainer.prompts_per_step=16",
    "trainer.group_size=4", "evaluation.num_prompts=8", "evaluation.num_samples=2", "sampling.max_tokens=24", "device=cpu",
    "checkpoint.every_steps=1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    if os.getuid() != 0 or shutil.which("slurmctld") is None:
        pytest.skip("needs root and Debian's slurm-wlm: make test-slurm installs it")
    subprocess.run([CLUSTER, "down"], check=False, capture_output=True)
    up = subprocess.run([CLUSTER, "up"], check=False, capture_output=True, text=True)
    if up.returncode == 2:  # exit code of the script for a machine on which it cannot run
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    settings = {"TRIPTYCH_CONFIGS": str(ROOT / "configs"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    yield {**os.environ, **settings, "SLURM_CONF": up.stdout.strip().splitlines()[-1]}
    subprocess.run([CLUSTER, "down"], check=True, capture_output=True)


@pytest.fixture
def train(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started = []

    def start(*arguments: str, launcher: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", *launcher, "gspo_rl.commands.train", *SMALL, *arguments]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def slurm(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def until(condition: Callable[[], Any], what: str, *, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.05)
    return found


def end(process: "subprocess.Popen[str]") -> tuple[str, str]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out, err


def restarts(environment: dict[str, str], out: Path) -> dict[str, int]:
    """Number of resumes of each job, from the logs of its tasks."""
    found = {}
    for log in out.glob(".submitit/*/*_log.out"):
        found[log.name] = len(re.findall(r"resuming from step", log.read_text()))
    return found


def test_a_preempted_member_of_a_sweep_resumes_with_equal_results(train: Callable, environment: dict[str, str], tmp_path: Path) -> None:
    """Two by two members on two nodes, two at a time; an urgent job takes a node from one of the first two."""
    swept = ["objective=gspo,grpo", "seed=0,1", "trainer.max_steps=60"]
    end(train(*swept, "name=plain", "-m"))
    sweep = train(*swept, "name=sweep", "cluster=slurm_cpu", "hydra.launcher.partition=normal", "hydra.launcher.cpus_per_task=4", "-m")
    folder = tmp_path / "outputs" / "sweep"
    running = until(lambda: [path.parent for path in folder.glob("*/metrics.jsonl") if len(rows(path.parent)) > 4], "a fifth step")[0]
    nodes = dict(line.split() for line in slurm(environment, "squeue", "-h", "-t", "R", "-o", "%A %N").splitlines())
    assert nodes, "no member is running: they are too short to be preempted"
    node = sorted(nodes.values())[0]
    slurm(environment, "srun", "-p", "urgent", "-w", node, "-c", "4", "sleep", "1")
    end(sweep)
    members = sorted(path.parent.name for path in (tmp_path / "outputs" / "plain").rglob("summary.json"))
    assert members == sorted(path.parent.name for path in folder.glob("*/summary.json"))
    assert len(members) == 4
    assert running.name in members
    assert sum(restarts(environment, folder).values()) >= 1, "no member was interrupted"
    for member in members:
        assert rows(tmp_path / "outputs" / "plain" / member) == rows(folder / member), member


def test_two_tasks_on_two_nodes_equal_two_processes_and_resume(train: Callable, environment: dict[str, str], tmp_path: Path) -> None:
    length = "trainer.max_steps=60"
    end(train(length, "name=plain", launcher=("triptych.commands.launch", "--standalone", "--nproc-per-node=2", "-m")))
    two = ["cluster=slurm_cpu", "hydra.launcher.partition=normal", "hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=1"]
    job = train(length, "name=two", *two, "-m")
    folder = tmp_path / "outputs" / "two" / "default"
    until(lambda: len(rows(folder)) > 4, "a fifth step")
    number = slurm(environment, "squeue", "-h", "-t", "R", "-o", "%A").split()[0]
    slurm(environment, "scancel", "--signal=USR2", number)
    end(job)
    assert json.loads((folder / "summary.json").read_text())["world_size"] == 2
    assert sum(restarts(environment, folder.parent).values()) >= 1, "the job was not interrupted"
    assert rows(folder) == rows(tmp_path / "outputs" / "plain")


def test_tasks_of_srun_form_one_process_group(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gspo_rl.commands.train", *SMALL, "trainer.max_steps=2", "name=srun"]
    settings = ["-N", "2", "-n", "2", "-p", "normal"]
    done = subprocess.run(
        ["srun", *settings, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs" / "srun" / "summary.json").read_text())["world_size"] == 2


def test_a_sweep_that_slurm_rejects_is_reported_in_one_line(train: Callable) -> None:
    refused = train("-m", "cluster=slurm_cpu", "hydra.launcher.partition=nowhere", "seed=0,1", "name=refused")
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "Traceback" not in err
    assert re.search(r"^error: Slurm rejected the sweep \(sbatch: .*nvalid partition.*\): check partition", err, re.MULTILINE)
