"""Padding, selection and micro-batches."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gspo_rl.data.batch import Completion, collate, microbatches


def completion(prompt: int, response: int, start: int) -> Completion:
    ids = tuple(range(start, start + prompt + response))
    logprobs = -0.1 * torch.arange(1, response + 1)
    return Completion(ids[:prompt], torch.tensor(ids[prompt:], dtype=torch.long), logprobs, "", finished=True)


LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9)


@given(LENGTHS)
def test_every_token_and_logprob_is_at_its_position(lengths: list[tuple[int, int]]) -> None:
    items = [completion(prompt, response, 100 * row) for row, (prompt, response) in enumerate(lengths)]
    batch = collate(items, torch.arange(float(len(items))), torch.zeros(len(items)), pad_id=-1)
    for row, item in enumerate(items):
        mask = batch.response_mask[row]
        assert batch.input_ids[row][mask].tolist() == list(item.token_ids)
        assert batch.input_ids[row, : len(item.prompt_ids)].tolist() == list(item.prompt_ids)
        assert (batch.input_ids[row, len(item.prompt_ids) + len(item.token_ids) :] == -1).all()
        torch.testing.assert_close(batch.sampler_logprobs[row][mask], item.logprobs)
        assert (batch.sampler_logprobs[row][~mask] == 0).all()
        assert batch.response_lengths[row] == len(item.token_ids)


@given(LENGTHS, st.integers(1, 60))
def test_microbatches_hold_every_row_once_within_the_budget(lengths: list[tuple[int, int]], max_tokens: int) -> None:
    items = [completion(prompt, response, 100 * row) for row, (prompt, response) in enumerate(lengths)]
    batch = collate(items, torch.zeros(len(items)), torch.arange(float(len(items))), pad_id=-1)
    seen = []
    for rows, part in microbatches(batch, max_tokens=max_tokens):
        seen += rows.tolist()
        assert part.input_ids.numel() <= max_tokens or len(rows) == 1
        assert torch.equal(part.response_mask.sum(1), batch.response_mask[rows].sum(1))  # no response token is lost
        assert torch.equal(part.advantages, batch.advantages[rows])
        assert (part.input_ids[0] != -1).all()  # trimmed to the longest row
    assert sorted(seen) == list(range(len(items)))
