"""The rate that is suggested for a size; one that is given is kept."""

import pytest

from gspo_rl.models.lora import LoRA
from gspo_rl.models.policy import Policy
from gspo_rl.training.learning_rate import suggested_rate, with_rate
from triptych.optim import OptimizerConfig
from triptych.telemetry.logging import setup_logging


@pytest.mark.parametrize(("size", "rate"), [(1e5, 5e-5), (135e6, 1e-5), (0.6e9, 4.74e-6), (8e9, 1.30e-6), (30.5e9, 6.65e-7)])
def test_the_rate_falls_with_the_root_of_the_size(size: float, rate: float) -> None:
    assert suggested_rate(int(size), has_adapter=False) == pytest.approx(rate, rel=0.01)
    assert suggested_rate(int(size), has_adapter=True) == pytest.approx(10 * rate, rel=0.01)


def test_a_rate_that_is_given_is_kept_and_another_is_logged(small_policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0, world_size=1)
    given = OptimizerConfig(learning_rate=3e-4, warmup_steps=7)
    assert with_rate(given, small_policy) is given
    assert capsys.readouterr().out == ""
    found = with_rate(OptimizerConfig(learning_rate=None, warmup_steps=7), small_policy)
    rate = suggested_rate(small_policy.num_parameters, has_adapter=False)
    assert found == OptimizerConfig(learning_rate=float(f"{rate:.2g}"), warmup_steps=7)
    assert capsys.readouterr().out.startswith("learning rate ")
    small_policy.train_with(LoRA(rank=2))
    adapted = with_rate(OptimizerConfig(learning_rate=None), small_policy)
    assert adapted.learning_rate == pytest.approx(10 * found.peak, rel=0.1)
    assert "an adapter of" in capsys.readouterr().out
