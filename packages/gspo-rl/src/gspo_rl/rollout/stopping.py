"""Ends of responses: end-of-sequence tokens, further token ids, and strings."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig


class Response(NamedTuple):
    """A response cut at its end.

    Attributes:
        length: number of its tokens, with the one that ends it.
        text: without special tokens, and without a stop string and what follows it.
        finished: whether it ends by itself.
    """

    length: int
    text: str
    finished: bool


class Stops:
    """Where responses end.

    Args:
        policy: its end-of-sequence tokens always end a response.
        sampling: further ends, `stop` and `stop_token_ids`.

    Attributes:
        token_ids: all tokens that end a response.
        window: number of last tokens of a response that `ended` needs.
    """

    def __init__(self, policy: Policy, sampling: SamplingConfig) -> None:
        self.token_ids = tuple(dict.fromkeys([*policy.eos_ids, *sampling.stop_token_ids]))
        self._ends = torch.tensor(self.token_ids, device=policy.device)
        self._policy = policy
        self._strings = tuple(sampling.stop)
        # A token holds at least one byte of the string, but for the first, which may begin before it.
        self.window = 1 + max((len(string.encode()) for string in self._strings), default=0)

    def ended(self, tokens: Int[Tensor, "batch tokens"]) -> Bool[Tensor, " batch"]:
        """Whether the last token of each row ends its response.

        Args:
            tokens: the last `window` tokens of each response, or all of a shorter one; more do not change the answer.
        """
        ended = torch.isin(tokens[:, -1], self._ends)
        if self._strings:
            texts = [self._policy.decode(row) for row in tokens[:, -self.window :].tolist()]
            ended |= torch.tensor([self._first(text) is not None for text in texts], device=tokens.device)
        return ended

    def cut(self, tokens: Sequence[int]) -> Response:
        """The response in a row of sampled tokens, which may go on after its end."""
        ends = set(self.token_ids)
        length = next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
        finished = length > 0 and tokens[length - 1] in ends
        text = self._policy.decode(tokens[:length])
        at = self._first(text)
        if at is None:
            return Response(length, text, finished)
        low, high = 1, length  # the fewest tokens whose text holds a stop string
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._first(self._policy.decode(tokens[:middle])) is not None else (middle + 1, high)
        return Response(low, text[:at], True)

    def _first(self, text: str) -> int | None:
        """Where the first stop string in a text begins."""
        return min((text.index(string) for string in self._strings if string in text), default=None)
