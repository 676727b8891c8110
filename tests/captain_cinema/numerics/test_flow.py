"""Rectified flow: the path, its velocity and the Euler step, against their definitions and diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captain_cinema.numerics.flow import (
    euler_sample,
    euler_step,
    frame_losses,
    interpolate,
    loss_weights,
    sample_timesteps,
    sampling_timesteps,
    shift_timesteps,
    velocity_of,
)
from triptych.errors import UserError


def frames(seed: int) -> torch.Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_interpolation_runs_from_data_to_noise() -> None:
    data, noise = frames(0), frames(1)
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(3)), noise)
    mixed = interpolate(data, noise, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert torch.equal(mixed[0], data[0])
    torch.testing.assert_close(mixed[1], 0.75 * data[1] + 0.25 * noise[1])


@given(st.integers(1, 20), st.floats(0.2, 5.0))
def test_euler_on_the_exact_velocity_lands_on_the_data(num_steps: int, shift: float) -> None:
    data, noise = frames(0), frames(1)
    times = sampling_timesteps(num_steps, shift=shift).double()
    point = noise
    for begin, end in pairwise(times):
        point = euler_step(point, noise - data, begin, end)
    torch.testing.assert_close(point, data, atol=1e-9, rtol=0)


def test_given_frames_stay_while_the_others_are_denoised() -> None:
    data, noise = frames(0)[:, None].expand(-1, 2, -1, -1, -1), frames(1)[:, None].expand(-1, 2, -1, -1, -1)
    free = torch.tensor([[1.0, 0.0]]).expand(len(data), 2).double()
    calls = []

    def velocity(points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        calls.append(times)
        return noise - data

    found = euler_sample(velocity, noise, [1.0, 0.6, 0.0], free=free)
    torch.testing.assert_close(found[:, 0], data[:, 0], atol=1e-9, rtol=0)
    assert torch.equal(found[:, 1], noise[:, 1])
    assert [times[0].tolist() for times in calls] == [[1.0, 0.0], [0.6, 0.0]]


def test_the_velocity_of_the_data_is_noise_minus_data() -> None:
    data, noise = frames(0), frames(1)
    times = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    noisy = interpolate(data, noise, times)
    torch.testing.assert_close(velocity_of(noisy, data, times, floor=0.05), noise - data)
    # One step to time 0 lands on the prediction, whatever the time.
    torch.testing.assert_close(euler_step(noisy, velocity_of(noisy, noise, times, floor=0.05), times, torch.zeros(3)), noise)


@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.floats(0.0, 1.0))
def test_shifts_compose(first: float, second: float, time: float) -> None:
    value = torch.tensor([time], dtype=torch.float64)
    torch.testing.assert_close(shift_timesteps(shift_timesteps(value, first), second), shift_timesteps(value, first * second))


def test_sampling_times_fall_from_noise_to_data() -> None:
    times = sampling_timesteps(4, shift=3.0)
    # 3 t / (1 + 2 t) at 1, 3/4, 1/2, 1/4, 0.
    assert times.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_training_times_are_logit_normal_with_a_fraction_of_pure_noise() -> None:
    times = sample_timesteps(20_000, mean=0.9, deviation=1.3, fraction_at_one=0.15, generator=torch.Generator().manual_seed(0))
    assert float((times == 1).float().mean()) == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / 20_000))
    logits = torch.logit(times[times < 1].double())
    count = len(logits)
    assert float(logits.mean()) == pytest.approx(0.9, abs=4 * 1.3 / math.sqrt(count))
    assert float(logits.std()) == pytest.approx(1.3, abs=4 * 1.3 / math.sqrt(2 * count))


def test_losses_are_per_frame_and_weights_are_bounded() -> None:
    data, noise = frames(0), frames(1)
    expected = [float(((noise[index] - data[index]) ** 2).mean()) for index in range(3)]
    assert frame_losses(noise.float(), data.float()).tolist() == pytest.approx(expected, rel=1e-5)
    assert loss_weights(torch.tensor([0.0, 0.25, 0.5, 1.0]), floor=0.25).tolist() == [4, 4, 2, 1]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="shift is 0"):
        shift_timesteps(torch.zeros(1), 0.0)
    with pytest.raises(UserError, match="num_steps is 0"):
        sampling_timesteps(0)
    with pytest.raises(UserError, match="deviation is -1"):
        sample_timesteps(1, mean=0.0, deviation=-1.0, fraction_at_one=0.0, generator=torch.Generator())
    with pytest.raises(UserError, match="fraction_at_one is 2"):
        sample_timesteps(1, mean=0.0, deviation=1.0, fraction_at_one=2.0, generator=torch.Generator())
