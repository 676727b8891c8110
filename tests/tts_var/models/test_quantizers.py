"""Bit flips of self-correction and the entropy loss against their definitions."""

import pytest
import torch

from tts_var.models.quantizers import RandomFlips, bit_entropy_loss


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3])
def test_flip_rates_are_the_probability_and_later_scales_are_unchanged(strength: float) -> None:
    bits = torch.zeros(4, 50, 50, 8, dtype=torch.uint8)
    flips = RandomFlips(strength=strength, num_scales=60, generator=torch.Generator().manual_seed(0))
    rates = [float(flips(scale, bits).float().mean()) for scale in range(60)]
    # One probability per call from {0, .01, .., strength}; of 80,000 bits four standard errors are at most .007.
    levels = [level / 100 for level in range(round(100 * strength) + 1)]
    assert all(min(abs(rate - level) for level in levels) < 0.007 for rate in rates)
    if strength:
        assert len({round(rate, 2) for rate in rates}) > len(levels) / 2
    assert flips(60, bits) is bits


def test_entropy_loss_is_its_definition() -> None:
    features = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    probability = torch.sigmoid(4 * 0.7 * features / features.square().sum(1, keepdim=True).sqrt() / 8**0.5)
    per_cell = torch.distributions.Bernoulli(probability).entropy().mean()
    of_mean = torch.distributions.Bernoulli(probability.transpose(0, 1).flatten(1).mean(1)).entropy().mean()
    assert float(bit_entropy_loss(features, temperature=0.7)) == pytest.approx(float(per_cell - of_mean), abs=1e-6)
