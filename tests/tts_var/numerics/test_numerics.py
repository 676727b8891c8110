"""Laws of the panel's numerics: scales, draws, schedules, potentials, resampling, clustering."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import UserError
from tts_var.models.draws import KeyedDraws, LineageDraws
from tts_var.models.quantizers import RandomFlips, bit_entropy_loss
from tts_var.models.templates import VAR_SIDES, infinity_scales, infinity_templates
from tts_var.numerics.clustering import project, representatives
from tts_var.numerics.potentials import POTENTIALS, effective_sample_size, log_weights, potential
from tts_var.numerics.resampling import SCHEMES, resample
from tts_var.numerics.sampling import filter_logits, guided_logits, invert_cumulative
from tts_var.numerics.scales import square_scales
from tts_var.numerics.schedule import Event, SearchConfig, estimate_memory, plan

HISTORIES = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=6)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "tokens"), [("0.06M", 521), ("0.25M", 2521), ("0.60M", 6425), ("1M", 10521)])
def test_square_sequences_have_the_published_lengths(size: str, tokens: int) -> None:
    assert infinity_scales(size).num_tokens == tokens


def test_templates_are_those_of_the_released_model() -> None:
    assert sorted(infinity_templates()) == [0.333, 0.4, 0.5, 0.571, 0.666, 0.75, 0.8, 1.0, 1.25, 1.333, 1.5, 1.75, 2.0, 2.5, 3.0]
    assert infinity_scales(ratio=0.57).grids[-1] == (48, 84)
    assert square_scales(VAR_SIDES[256]).num_tokens == 680


def test_guidance_of_one_is_the_condition() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    assert torch.equal(guided_logits(conditional, unconditional, 1.0), conditional)
    # 3 * 1 - 2 * 0.5 = 2 and 3 * 2 - 2 * (-1) = 8
    assert torch.equal(guided_logits(conditional, unconditional, 3.0), torch.tensor([2.0, 8.0]))


# Whole numbers: classes so alike that rounding decides their order would compare the order, not the rule.
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8, unique=True), st.floats(0.05, 0.95))
def test_top_p_keeps_the_likeliest_and_their_mass(logits: list[int], top_p: float) -> None:
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    kept = torch.isfinite(filter_logits(torch.tensor(logits, dtype=torch.float64), top_p=top_p))
    # Slow reference: classes from the least probable on, as long as they hold at most 1 - top_p together.
    mass, expected = 0.0, [True] * len(logits)
    for index in probabilities.argsort().tolist()[:-1]:
        mass += float(probabilities[index])
        if mass <= 1 - top_p:
            expected[index] = False
    assert kept.tolist() == expected
    assert kept[probabilities.argmax()]


def test_top_k_keeps_k() -> None:
    assert torch.isfinite(filter_logits(torch.tensor([0.1, 3.0, 2.0, -1.0]), top_k=2)).tolist() == [False, True, True, False]


def test_inversion_follows_the_distribution() -> None:
    probabilities = torch.tensor([[[0.2, 0.5, 0.3]]])
    for uniform, expected in ((0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 2), (0.999999, 2)):
        assert invert_cumulative(probabilities, torch.tensor([[uniform]])).item() == expected
    certain = torch.tensor([[[1.0, 0.0]]])
    assert invert_cumulative(certain, torch.tensor([[0.99999999]])).item() == 0


def test_draws_do_not_know_their_batch() -> None:
    probabilities = torch.rand(6, 50, 3, generator=stream()).softmax(-1)
    together = KeyedDraws([4, 9]).classes(probabilities, scale=2)
    assert torch.equal(KeyedDraws([4]).classes(probabilities[:3], scale=2), together[:3])
    assert torch.equal(KeyedDraws([9]).classes(probabilities[3:5], scale=2), together[3:5])
    assert not torch.equal(KeyedDraws([4]).classes(probabilities[:3], scale=1), together[:3])
    assert torch.equal(LineageDraws([9], [[0, 0, 1]]).classes(probabilities[4:5], scale=2)[0], together[4])


@given(HISTORIES)
def test_potentials_are_their_definitions(history: list[list[float]]) -> None:
    rewards = torch.tensor(history, dtype=torch.float32)
    expected = {
        "value": [row[-1] for row in rewards.tolist()],
        "difference": [row[-1] - row[-2] for row in rewards.tolist()],
        "maximum": [max(row) for row in rewards.tolist()],
        "sum": [math.fsum(row) for row in rewards.tolist()],
    }
    for name in POTENTIALS:
        assert potential(rewards, name).tolist() == pytest.approx(expected[name], abs=1e-5)


def test_difference_of_one_reward_is_the_reward() -> None:
    assert potential(torch.tensor([[2.0], [3.0]]), "difference").tolist() == [2.0, 3.0]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0, 20), st.floats(-100, 100))
def test_weights_sum_to_one_and_ignore_a_shift(potentials: list[float], strength: float, shift: float) -> None:
    weights = log_weights(torch.tensor(potentials, dtype=torch.float64), strength).exp()
    shifted = log_weights(torch.tensor(potentials, dtype=torch.float64) + shift, strength).exp()
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(weights, shifted, atol=1e-9, rtol=1e-6)


def test_strength_zero_is_uniform_and_large_is_finite() -> None:
    potentials = torch.tensor([1.0, 2.0, 100.0])
    torch.testing.assert_close(log_weights(potentials, 0.0).exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert float(effective_sample_size(log_weights(potentials, 0.0))) == pytest.approx(3)
    # exp(10 * 100) overflows even float64; the log-weights do not.
    assert torch.isfinite(log_weights(potentials, 10.0)).all()
    assert float(effective_sample_size(log_weights(potentials, 10.0))) == pytest.approx(1)


@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_resampling_with_replacement_is_unbiased(scheme: str) -> None:
    weights = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    generator, counts, repeats = stream(), torch.zeros(3), 4000
    for _ in range(repeats):
        counts += torch.bincount(resample(weights.log(), 4, scheme, generator=generator), minlength=3)
    # Standard error of a share is at most sqrt(.25 / 16000) = .004: four of them.
    torch.testing.assert_close(counts / counts.sum(), weights.float(), atol=0.016, rtol=0)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_systematic_resampling_rounds_the_expected_count(count: int, seed: int) -> None:
    weights = torch.rand(5, generator=stream(seed), dtype=torch.float64)
    weights /= weights.sum()
    drawn = torch.bincount(resample(weights.log(), count, "systematic", generator=stream(seed + 1)), minlength=5)
    assert ((drawn - count * weights).abs() < 1 + 1e-9).all()


def test_without_replacement_follows_successive_draws() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    generator, first, pairs, repeats = stream(), torch.zeros(3), 0, 4000
    for _ in range(repeats):
        drawn = resample(weights.log(), 2, "without_replacement", generator=generator).tolist()
        assert len(set(drawn)) == 2
        first[drawn[0]] += 1
        pairs += set(drawn) == {0, 1}
    torch.testing.assert_close(first / repeats, weights.float(), atol=0.035, rtol=0)
    # P({0, 1}) = .5 * .3 / .5 + .3 * .5 / .7 = .3 + .2143
    assert pairs / repeats == pytest.approx(0.5143, abs=0.035)


def test_top_takes_the_heaviest() -> None:
    assert resample(torch.tensor([0.1, 0.6, 0.3]).log(), 2, "top", generator=stream()).tolist() == [1, 2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_is_a_function_of_its_generator(scheme: str) -> None:
    weights = torch.tensor([0.1, 0.6, 0.3]).log()
    assert torch.equal(resample(weights, 2, scheme, generator=stream(5)), resample(weights, 2, scheme, generator=stream(5)))


def test_representatives_are_one_of_each_heap() -> None:
    heaps = torch.tensor([[0.0, 0.0], [0.1, 0.0], [10.0, 0.0], [10.1, 0.1], [0.0, 10.0]])
    chosen = set(representatives(heaps, 3, seed=0).tolist())
    assert 4 in chosen
    assert len(chosen & {0, 1}) == len(chosen & {2, 3}) == 1


@given(st.integers(1, 6), st.integers(1, 6))
def test_duplicates_never_shrink_the_batch(distinct: int, count: int) -> None:
    points = torch.arange(6).remainder(distinct).float()[:, None]
    chosen = representatives(points, count, seed=0).tolist()
    assert len(set(chosen)) == count
    assert len({float(points[index]) for index in chosen}) == min(distinct, count)


def test_principal_coordinates_do_not_depend_on_an_arbitrary_sign() -> None:
    patches = torch.randn(3, 16, 4, generator=stream())
    coordinates = project(patches, "pca")
    for tokens, found in zip(patches.double().numpy(), coordinates.double().numpy(), strict=True):
        # Independent reference: eigenvectors of the covariance.
        centred = tokens - tokens.mean(0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        direction *= np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(found, centred @ direction, atol=1e-5)
    assert torch.equal(project(patches, "pool"), patches.mean(1))


def test_the_papers_schedule_is_planned_as_written() -> None:
    schedule = [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1]
    events = [Event(2, "cluster"), Event(5, "cluster"), Event(6, "resample"), Event(9, "resample")]
    steps = plan(SearchConfig(schedule, events, num_images=2), 13)
    # Scale i is generated with the particles alive after scale i - 1, times the number of final pictures.
    assert [step.particles for step in steps] == [16, 16, 16, 12, 12, 12, 8, 4, 4, 4, 2, 2, 2]
    assert [step.events for step in steps if step.events] == [(("cluster", 12),), (("cluster", 8),), (("resample", 4),), (("resample", 2),)]


def test_several_events_at_one_scale_run_in_order() -> None:
    steps = plan(SearchConfig([8, 2], [Event(1, "cluster", 4), Event(1, "resample")]), 2)
    assert steps[1].events == (("cluster", 4), ("resample", 2))


@pytest.mark.parametrize("field", ["potential", "projection", "scheme"])
def test_unknown_names_are_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(UserError, match=f"search.{field} is 'nonsense': choose one of"):
        SearchConfig(**{field: "nonsense"})  # type: ignore[arg-type]


def test_memory_counts_old_and_new_caches() -> None:
    steps = plan(SearchConfig([4, 1], [Event(1, "resample")]), 2)
    assert estimate_memory(steps, [10, 30]) == 4 * 40


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3])
def test_flips_are_as_many_as_their_probability_and_only_where_asked(strength: float) -> None:
    bits = torch.zeros(4, 50, 50, 8, dtype=torch.uint8)
    flips = RandomFlips(strength=strength, num_scales=60, generator=torch.Generator().manual_seed(0))
    rates = [float(flips(scale, bits).float().mean()) for scale in range(60)]
    # One probability per call from {0, .01, .., strength}; 80,000 bits show it to four standard errors of .007 at most.
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
