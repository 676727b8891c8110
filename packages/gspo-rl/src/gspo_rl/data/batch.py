"""Prompts, completions, and padded batches for training."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A question.

    Attributes:
        text: the question, before any chat template.
        answer: the reference answer that the task grades against.
        metadata: further fields that the task needs for grading.
        messages: a whole conversation with the keys `role` and `content` instead of the text, for the chat template; `text` is then
            what is shown.
        index: of the prompt in its split, where prompts before it were left out; None for its position.
    """

    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()
    index: int | None = None

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages for a chat template; of a prompt without any, its text as that of a user."""
        return [dict(message) for message in self.messages] or [{"role": "user", "content": self.text}]

    @property
    def key(self) -> str:
        """What tells questions apart: the text, or the whole conversation."""
        return json.dumps(self.conversation) if self.messages else self.text


@dataclass(frozen=True, eq=False)
class Completion:
    """One sampled response.

    Attributes:
        prompt_ids: token ids of the prompt, after any chat template; one tuple for all samples of a prompt.
        token_ids: sampled token ids, int64 on the CPU, including an end-of-sequence token that was sampled.
        logprobs: log-probability of each sampled token under the full softmax at the sampling temperature, computed by the
            sampler; float32 on the CPU.
        text: decoded response without special tokens.
        finished: true if the end-of-sequence token was sampled, false if the token limit cut the response.
        weight_version: version of the weights that sampled it, from `RolloutEngine.update_weights`; 0 for the initial ones.
    """

    prompt_ids: tuple[int, ...]
    token_ids: Int[Tensor, " tokens"]
    logprobs: Float[Tensor, " tokens"]
    text: str
    finished: bool
    weight_version: int = 0


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right to one length; every row is prompt, response, padding.

    Position t of `logprobs`-like tensors belongs to token t of `input_ids` (predicted from the tokens before it).

    Attributes:
        input_ids: token ids; padding holds `pad_id`.
        response_mask: true on response tokens.
        sampler_logprobs: the sampler's log-probabilities on response tokens, 0 elsewhere.
        rewards: one per sequence.
        advantages: one per sequence.
    """

    input_ids: Int[Tensor, "batch tokens"]
    response_mask: Bool[Tensor, "batch tokens"]
    sampler_logprobs: Float[Tensor, "batch tokens"]
    rewards: Float[Tensor, " batch"]
    advantages: Float[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def response_lengths(self) -> Int[Tensor, " batch"]:
        """Number of response tokens per sequence."""
        return self.response_mask.sum(dim=1)

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "Batch":
        """The given rows in the given order, at the same padded length."""
        index = torch.as_tensor(rows, device=self.input_ids.device)
        return replace(self, **{item.name: getattr(self, item.name)[index] for item in fields(self)})

    def split(self, count: int) -> list["Batch"]:
        """The batch in `count` equal parts, in order."""
        rows = len(self) // count
        return [self.select(range(index * rows, (index + 1) * rows)) for index in range(count)]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return replace(self, **{item.name: getattr(self, item.name).to(device) for item in fields(self)})


def collate(
    completions: Sequence[Completion],
    rewards: Float[Tensor, " batch"],
    advantages: Float[Tensor, " batch"],
    *,
    pad_id: int,
) -> Batch:
    """Pads completions with their prompts into one `Batch` on the CPU.

    Args:
        completions: at least one.
        rewards: float32, one per completion.
        advantages: float32, one per completion.
        pad_id: token id written into padding; it has no effect, because padding follows all real tokens and attention is
            causal.
    """
    lengths = [len(item.prompt_ids) + len(item.token_ids) for item in completions]
    shape = (len(completions), max(lengths))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    response_mask = torch.zeros(shape, dtype=torch.bool)
    sampler_logprobs = torch.zeros(shape, dtype=torch.float32)
    for row, (item, end) in enumerate(zip(completions, lengths, strict=True)):
        start = len(item.prompt_ids)
        input_ids[row, :start] = torch.tensor(item.prompt_ids, dtype=torch.long)
        input_ids[row, start:end] = item.token_ids
        response_mask[row, start:end] = True
        sampler_logprobs[row, start:end] = item.logprobs
    return Batch(input_ids, response_mask, sampler_logprobs, rewards.float(), advantages.float())


def distinct_prompts(prompt_ids: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Int[Tensor, " batch"]]:
    """The distinct prompts in order of their first occurrence, and the index of each sample's prompt among them.

    Example:
        >>> distinct_prompts([(5,), (5,), (6, 7), (5,)])
        ([(5,), (6, 7)], tensor([0, 0, 1, 0]))
    """
    row_of = {ids: row for row, ids in enumerate(dict.fromkeys(prompt_ids))}
    return list(row_of), torch.tensor([row_of[ids] for ids in prompt_ids])


def left_padded(prompt_ids: Sequence[tuple[int, ...]], pad_id: int) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Prompts padded on the left, so that all end at the same position, and the mask of their tokens."""
    longest = max(len(ids) for ids in prompt_ids)
    rows = [[pad_id] * (longest - len(ids)) + list(ids) for ids in prompt_ids]
    real = [[False] * (longest - len(ids)) + [True] * len(ids) for ids in prompt_ids]
    return torch.tensor(rows, dtype=torch.long), torch.tensor(real)


def microbatches(batch: Batch, *, max_tokens: int, at_least: int = 1) -> Iterator[tuple[Int[Tensor, " rows"], Batch]]:
    """Splits a batch into pieces of at most `max_tokens` padded tokens, longest rows together, trimmed to their length.

    Rows are sorted by length, so that pieces hold little padding. A row longer than `max_tokens` makes a piece of
    its own.

    Args:
        batch: the batch.
        max_tokens: most padded tokens of a piece of several rows.
        at_least: smallest number of pieces, if there are that many rows.

    Yields:
        The rows of `batch` that the piece holds, and the piece.
    """
    lengths = _row_lengths(batch)
    order = torch.argsort(lengths, descending=True, stable=True)
    start, num_pieces = 0, 0
    while start < len(order):
        longest = int(lengths[order[start]])
        spare = len(order) - start - (at_least - num_pieces - 1)  # rows beyond one for each further piece
        count = max(1, min(max_tokens // max(1, longest), spare))
        rows = order[start : start + count]
        piece = batch.select(rows)
        yield rows, trim(piece, longest)
        start += count
        num_pieces += 1


def trim(batch: Batch, length: int) -> Batch:
    """The first `length` positions of every row."""
    return replace(
        batch,
        input_ids=batch.input_ids[:, :length],
        response_mask=batch.response_mask[:, :length],
        sampler_logprobs=batch.sampler_logprobs[:, :length],
    )


def _row_lengths(batch: Batch) -> Int[Tensor, " batch"]:
    """Tokens of each row up to its last response token; the rest is padding, or a prompt without a response."""
    positions = torch.arange(1, batch.input_ids.shape[1] + 1, device=batch.input_ids.device)
    return torch.where(batch.response_mask, positions, 0).amax(dim=1)
