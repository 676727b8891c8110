"""Sampling of tokens from logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.errors import UserError
from triptych.seeding import generator


@dataclass
class SamplingConfig:
    """Settings of the sampling of responses.

    Attributes:
        max_tokens: longest response, in tokens.
        temperature: divisor of the logits; 0 takes the most likely token.
        top_k: number of most likely tokens to sample from; 0 for all.
        top_p: sample from the smallest set of most likely tokens with this probability; 1 for all.
        stop: strings that end a response, for a base model that emits no end-of-sequence token; the text ends before the string, the
            tokens with the one that completes it.
        stop_token_ids: tokens that end a response beside the policy's own.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"sampling.max_tokens is {self.max_tokens}: it must be 1 or more")
        if self.temperature < 0:
            raise UserError(f"sampling.temperature is {self.temperature}: it must be 0 or more")
        if self.top_k < 0:
            raise UserError(f"sampling.top_k is {self.top_k}: it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p is {self.top_p}: it must lie above 0 and be at most 1")
        if not all(self.stop):
            raise UserError("sampling.stop holds an empty string, which would end every response: remove it")
        if any(token < 0 for token in self.stop_token_ids):
            raise UserError(f"sampling.stop_token_ids is {self.stop_token_ids}: token ids are 0 or more")

    def greedy(self) -> Self:
        """The same length limit with greedy decoding."""
        return replace(self, temperature=0.0, top_k=0, top_p=1.0)


@dataclass
class SamplingOverrides:
    """Settings of sampling that differ from others: those of evaluations from those of rollouts; None for the same.

    Attributes:
        max_tokens: longest response, in tokens.
        temperature: divisor of the logits; 0 takes the most likely token.
        top_k: number of most likely tokens to sample from; 0 for all.
        top_p: sample from the smallest set of most likely tokens with this probability; 1 for all.
        stop: strings that end a response.
        stop_token_ids: tokens that end a response beside the policy's own.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None

    def over(self, sampling: SamplingConfig) -> SamplingConfig:
        """`sampling` with these settings in place of its own.

        Raises:
            UserError: for an impossible setting.
        """
        return replace(sampling, **{name: value for name, value in vars(self).items() if value is not None})


class SampledTokens(NamedTuple):
    """Tokens sampled at one position of several sequences.

    Attributes:
        tokens: token ids.
        logprobs: float32 log-probability of each under the full softmax at the sampling temperature (at 1 where
            that is 0), before `top_k` and `top_p` cut the distribution.
    """

    tokens: Int[Tensor, " batch"]
    logprobs: Float[Tensor, " batch"]


def uniform_noise(seeds: Sequence[int], num_tokens: int) -> Float[Tensor, "batch tokens"]:
    """One uniform number in [0, 1) per sequence and position, float64 on the CPU; row i depends on seed i alone."""
    return torch.stack([torch.rand(num_tokens, dtype=torch.float64, generator=generator(seed)) for seed in seeds])


def sample_tokens(logits: Float[Tensor, "batch vocab"], noise: Float[Tensor, " batch"], sampling: SamplingConfig) -> SampledTokens:
    """Samples one token per row by inverting the cumulative distribution at the row's uniform number.

    Args:
        logits: any float dtype.
        noise: uniform numbers in [0, 1); not used if `temperature` is 0.
        sampling: temperature and truncation.
    """
    logits = logits.float()
    log_distribution = torch.log_softmax(logits if sampling.temperature == 0 else logits / sampling.temperature, dim=-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        # float64: with 150,000 tokens the rounding of a float32 running sum exceeds the tail's probabilities.
        cumulative = _truncate(log_distribution, sampling).exp().double().cumsum(dim=-1)
        threshold = noise[:, None].to(cumulative) * cumulative[:, -1:]
        # right=True skips tokens of probability 0; the clamp is for noise that rounds up to 1.
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return SampledTokens(tokens, log_distribution.gather(-1, tokens[:, None]).squeeze(-1))


def _truncate(log_distribution: Tensor, sampling: SamplingConfig) -> Tensor:
    if 0 < sampling.top_k < log_distribution.shape[-1]:
        smallest_kept = log_distribution.topk(sampling.top_k, dim=-1).values[:, -1:]
        log_distribution = log_distribution.masked_fill(log_distribution < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = log_distribution.softmax(dim=-1).sort(dim=-1, descending=True)
        # A token is dropped if the tokens before it already have top_p; the most likely one is always kept.
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        log_distribution = log_distribution.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return log_distribution


def check_lengths(prompt_lengths: Sequence[int], max_tokens: int, max_positions: int) -> None:
    """Refuses prompts whose response might not fit.

    Raises:
        UserError: with the longest prompt's length and the limit.
    """
    longest = max(prompt_lengths, default=0)
    if longest + max_tokens > max_positions:
        raise UserError(
            f"the longest prompt has {longest} tokens and sampling.max_tokens is {max_tokens}, but the policy holds "
            f"{max_positions} positions: shorten the prompts, leave long ones out with prompts.overlong=drop, lower sampling.max_tokens or "
            "choose another policy"
        )
