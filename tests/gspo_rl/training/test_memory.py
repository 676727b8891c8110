"""Micro-batches that fit: bytes as autograd counts them, one plan on all ranks, recomputation where it is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gspo_rl.training.memory as memory
from gspo_rl.models.policy import Policy
from gspo_rl.training.memory import activation_bytes, describe, free_memory, plan_memory
from triptych.distributed import World
from triptych.strategy.blocks import recompute_activations
from triptych.strategy.ddp import DDPStrategy
from triptych.telemetry.logging import setup_logging


class Linear(torch.nn.Module):
    """Keeps its input of 4 x tokens x 8 bytes, and the result of the square root of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8, bias=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
        result: torch.Tensor = self.layer(torch.ones(ids.shape[1], 8)).exp()
        return result


def strategy(**options: bool) -> DDPStrategy:
    return DDPStrategy(World(), max_grad_norm=1.0, **options)


def test_the_bytes_are_those_that_autograd_keeps() -> None:
    assert activation_bytes(Linear(), num_tokens=10) == 2 * 4 * 10 * 8, "input and result of exp, without the weight"


def test_bytes_grow_with_tokens_and_layers_and_fall_with_recomputation(random_policy: Callable[..., Policy]) -> None:
    one, two = random_policy(num_layers=2), random_policy(num_layers=4)
    assert 1.8 < activation_bytes(one.scorer, num_tokens=64) / activation_bytes(one.scorer, num_tokens=32) < 2.5
    assert 1.3 < activation_bytes(two.scorer) / activation_bytes(one.scorer) < 2.0
    before = activation_bytes(two.scorer)
    recompute_activations(two.scorer)
    assert activation_bytes(two.scorer) < before / 2
    assert all(parameter.grad is None for parameter in two.model.parameters())


def test_the_micro_batch_grows_with_the_free_memory(small_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    states = 12 * small_policy.num_parameters
    per_token = activation_bytes(small_policy.scorer) / 64
    for tokens in (32, 512, 4096):
        monkeypatch.setattr(memory, "free_memory", lambda device, tokens=tokens: states + int(1.5 * tokens * per_token / 0.7))
        plan = plan_memory(small_policy, strategy(), World(), longest=16)
        assert plan.tokens == tokens
        assert not plan.recomputes
    assert "at most 4,096 tokens" in describe(plan)


def test_activations_are_recomputed_if_one_sequence_does_not_fit(
    random_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(0, world_size=1)
    policy = random_policy(num_layers=8)
    per_token = activation_bytes(policy.scorer) / 64
    monkeypatch.setattr(memory, "free_memory", lambda device: 12 * policy.num_parameters + int(64 * per_token / 0.7))
    assert not plan_memory(policy, strategy(), World(), longest=60).recomputes
    plan = plan_memory(policy, strategy(), World(), longest=100)
    assert plan.recomputes
    assert plan.tokens >= 128
    assert "recomputed in the backward" in describe(plan)
    assert capsys.readouterr().out == ""
    plan_memory(policy, strategy(), World(), longest=10_000)
    assert "a sequence of 10000 tokens needs" in capsys.readouterr().out
    shared = Policy(policy.model, policy.tokenizer, share_prompts=True)
    assert not plan_memory(shared, strategy(), World(), longest=100).recomputes
    assert plan_memory(policy, strategy(activation_checkpointing=True), World(), longest=1).recomputes


def test_attention_that_keeps_its_matrix_is_extrapolated_by_its_square(random_policy: Callable[..., Policy]) -> None:
    policy = random_policy(max_positions=1024)
    policy.model.set_attn_implementation("eager")
    plan = plan_memory(policy, strategy(), World(), longest=1000)
    measured = activation_bytes(policy.scorer, num_tokens=1000) / 1000
    assert 0.8 < plan.bytes_per_token / measured < 1.25
    assert measured > 3 * activation_bytes(policy.scorer) / 64, "the case is not quadratic"


def test_sharding_strategies_share_the_states_of_the_optimizer(small_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)

    class Sharded(DDPStrategy):
        syncs_in_forward = True

    class Alone(World):
        """One of four ranks, which asks no other."""

        def gather_objects(self, values: list[Any]) -> list[Any]:
            return values

    four = Alone(size=4)
    free = [plan_memory(small_policy, kind(World(), max_grad_norm=1.0), four, longest=16).free for kind in (DDPStrategy, Sharded)]
    assert free[0] == 2**28 - 12 * small_policy.num_parameters
    assert free[1] == 2**28 - 16 * small_policy.num_parameters // 4


def test_free_memory_is_within_the_limit_of_a_container(tmp_path: Path) -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50
    assert memory._container_room(tmp_path) == []
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_room(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._container_room(tmp_path) == [700]
