"""Particles: selection and extension of latents, caches and lineages together."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.models.particles import Particles, flat_rows


def numbered(num_prompts: int, per_prompt: int) -> Particles:
    """Particles with the row number in every tensor."""
    rows = num_prompts * per_prompt
    number = torch.arange(rows, dtype=torch.float32)
    key = number[None, :, None, None, None].expand(2, rows, 1, 3, 2) + 100 * torch.arange(2)[:, None, None, None, None]
    slots = torch.arange(per_prompt).repeat(num_prompts)[:, None]
    return Particles(num_prompts, 1, number[:, None, None, None].expand(rows, 1, 2, 2), [(key, -key)], slots)


def test_rows_are_slots_after_those_of_earlier_prompts() -> None:
    # Three particles per prompt: slots 2 and 0 of prompt 0 are rows 2 and 0, slots 1 and 1 of prompt 1 are rows 4 and 4.
    assert flat_rows(torch.tensor([[2, 0], [1, 1]]), 3).tolist() == [2, 0, 4, 4]


@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_selection_moves_latent_cache_and_lineage_together(num_prompts: int, per_prompt: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, 5))
    slots = st.integers(0, per_prompt - 1)
    indices = [data.draw(st.lists(slots, min_size=kept, max_size=kept)) for _ in range(num_prompts)]
    particles = numbered(num_prompts, per_prompt)
    chosen = particles.select(torch.tensor(indices))
    expected = [float(prompt * per_prompt + slot) for prompt, row in enumerate(indices) for slot in row]
    assert chosen.latent[:, 0, 0, 0].tolist() == expected
    [(key, value)] = chosen.cache
    assert key.shape == (2, num_prompts * kept, 1, 3, 2)
    for branch in range(2):
        assert key[branch, :, 0, 0, 0].tolist() == [number + 100 * branch for number in expected]
    assert torch.equal(value, -key)
    assert chosen.lineage[:, 0].tolist() == [slot for row in indices for slot in row]
    assert (chosen.num_prompts, chosen.scale, chosen.per_prompt) == (num_prompts, 1, kept)
    assert particles.per_prompt == per_prompt


def test_selection_of_all_slots_in_order_is_the_identity() -> None:
    particles = numbered(2, 3)
    same = particles.select(torch.arange(3).expand(2, 3))
    assert torch.equal(same.latent, particles.latent)
    assert torch.equal(same.lineage, particles.lineage)
    assert all(torch.equal(a, b) for a, b in zip(same.cache[0], particles.cache[0], strict=True))


def test_the_lineage_records_the_slot_before_each_selection() -> None:
    particles = Particles(1, 0, torch.zeros(3, 1, 1, 1), [], torch.zeros(3, 0, dtype=torch.long))
    particles = particles.advanced(particles.latent, []).select(torch.tensor([[2, 0]]))
    particles = particles.advanced(particles.latent, []).select(torch.tensor([[1, 1, 0]]))
    # Slots 2 and 0 survive scale 0 and become slots 0 and 1; of these, 1, 1 and 0 survive scale 1.
    assert particles.lineage.tolist() == [[0, 1], [0, 1], [2, 0]]
    assert particles.scale == 2
