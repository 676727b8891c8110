"""The supervised phase: learning, reuse of finished phases, and refusals."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.policy import tiny_policy
from gspo_rl.training.cold_start import ColdStartConfig, cold_start
from triptych.distributed import World
from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.run.signals import Interrupted
from triptych.strategy import StepReport
from triptych.strategy.ddp import DDPStrategy
from triptych.testing import run_distributed


class Copy:
    """A task whose answer is the letter in the prompt."""

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt(f"{letter}=", letter) for letter in "abcd"]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return float(completion.finished and completion.text == prompt.answer)

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        return prompt.answer


def small(seed: int = 0, max_positions: int = 16) -> Policy:
    return tiny_policy(
        hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1, intermediate_size=32, max_positions=max_positions, seed=seed
    )


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


CONFIG = ColdStartConfig(steps=150, batch_size=16, learning_rate=3e-3, warmup_steps=5)


def run(policy: Policy, folder: Path, config: ColdStartConfig = CONFIG, **changes: Any) -> None:
    options = {"seed": 0, "identity": {"task": "copy"}, "task": Copy(), **changes}
    with Run.open(RunConfig(name="run", output_root=str(folder), device="cpu", seed=options["seed"])) as opened:
        cold_start(policy, options["task"], config, run=opened, identity=options["identity"])


def test_the_policy_learns_the_demonstrations(tmp_path: Path) -> None:
    policy = small()
    run(policy, tmp_path)
    prompts = Copy().prompts("train")
    completions = StaticCacheEngine(policy).generate(prompts, 1, SamplingConfig(max_tokens=4, temperature=0.0), seeds=[0] * 4)
    assert [item.text for item in completions] == list("abcd")
    assert all(item.finished for item in completions)


def test_the_same_inputs_train_once_and_give_the_same_weights(tmp_path: Path) -> None:
    first, second = small(), small()
    run(first, tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    forwards: list[object] = []
    second.model.register_forward_hook(lambda module, arguments, output: forwards.append(output))
    run(second, tmp_path)
    assert not forwards, "the second run reads the weights and trains nothing"
    assert torch.equal(weights(first), weights(second))
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    elsewhere = small()
    run(elsewhere, tmp_path / "elsewhere")
    assert torch.equal(weights(first), weights(elsewhere)), "the phase is a function of its inputs"


@pytest.mark.parametrize("change", [{"seed": 1}, {"identity": {"task": "other"}}, {"config": ColdStartConfig(steps=61, batch_size=8)}])
def test_other_inputs_train_again(tmp_path: Path, change: dict[str, Any]) -> None:
    run(small(), tmp_path)
    run(small(), tmp_path, **change)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_no_steps_do_not_change_the_policy(tmp_path: Path) -> None:
    policy = small()
    before = weights(policy)
    run(policy, tmp_path, ColdStartConfig(steps=0))
    assert torch.equal(weights(policy), before)
    assert not (tmp_path / "cache").exists()


class WithoutDemonstrations:
    """A task without demonstrations."""

    def prompts(self, split: str) -> list[Prompt]:
        return [Prompt("a", "a")]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        return 0.0


def test_a_task_without_demonstrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no demonstrations: use cold_start.steps=0"):
        run(small(), tmp_path, task=WithoutDemonstrations())


def test_demonstrations_that_do_not_fit_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 3 positions"):
        run(small(max_positions=3), tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the cold start diverges at step \d+ \(loss .*, gradient norm .*\): lower cold_start.learning_rate"
    ):
        run(small(), tmp_path, ColdStartConfig(steps=5, batch_size=4, learning_rate=1e30, warmup_steps=0))


def _train_on(world: World, root: Path) -> torch.Tensor:
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.rank))
    policy = small()
    run(policy, root, ColdStartConfig(steps=5, batch_size=4))
    return weights(policy)


def test_damaged_weights_in_the_cache_are_kept_aside_and_trained_again(tmp_path: Path) -> None:
    first, second = small(), small()
    run(first, tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    path = folder / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-7] ^= 1  # one bit of a weight
    path.write_bytes(damaged)
    run(second, tmp_path)
    assert torch.equal(weights(first), weights(second))
    (aside,) = (tmp_path / "cache").glob("*.damaged")
    assert (aside / "model.safetensors").read_bytes() == damaged
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask, "the group may read weights"


def test_an_interrupted_phase_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, interrupted, resumed = small(), small(), small()
    run(whole, tmp_path / "whole")
    steps = DDPStrategy.step
    counted: list[float] = []

    def preempt(self: DDPStrategy, learning_rate: float) -> StepReport:
        counted.append(learning_rate)
        if len(counted) == 47:
            signal.raise_signal(signal.SIGTERM)
        return steps(self, learning_rate)

    monkeypatch.setattr(DDPStrategy, "step", preempt)
    with pytest.raises(Interrupted, match="after step 47: rerun the same command to resume"):
        run(interrupted, tmp_path)
    assert sorted(path.name for path in (tmp_path / "run" / ".phase-cold_start").iterdir()) == ["step_00000040", "step_00000047"]
    run(resumed, tmp_path)
    assert len(counted) == CONFIG.steps, "no step is repeated"
    assert torch.equal(weights(whole), weights(resumed))
    assert not (tmp_path / "run" / ".phase-cold_start").exists()


def test_two_ranks_give_the_weights_of_one(tmp_path: Path) -> None:
    policy = small()
    run(policy, tmp_path / "one", ColdStartConfig(steps=5, batch_size=4))
    for found in run_distributed(_train_on, world_size=2, args=(tmp_path / "two",)):
        assert torch.equal(found, weights(policy))
