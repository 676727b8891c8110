"""Sums of whole numbers with a written-out scratchpad: procedurally generated, verifiable, learnable on a laptop.

A prompt reads `387+45=`. A response adds column by column from the right, each time the two digits and the carry,
and then states the sum after `#`: `7+5+0=12 8+4+1=13 3+0+1=04 #432`. Only the stated sum is graded.
"""

import random
from collections.abc import Sequence
from typing import overload

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks import CORRECT
from triptych.errors import UserError
from triptych.seeding import derive_seed

_HELD_OUT_EVERY = 8  # one pair of numbers in eight is held out


class ArithmeticTask:
    """Sums of two numbers of `min_digits` to `max_digits` digits each.

    The demonstrations of the cold start are imperfect on purpose: a fraction of them, chosen once per demonstration,
    forgets every carry, and single columns are off by one. A policy that imitates them is right some of the time, so
    reinforcement learning starts with rewards of both kinds.

    Args:
        min_digits: fewest digits of a number.
        max_digits: most digits of a number.
        num_prompts: number of training prompts.
        num_held_out: number of held-out prompts.
        careless: fraction of demonstrations that forget every carry.
        slip: chance that a column of a demonstration is off by one.
        seed: seed of the sums.

    Raises:
        UserError: if a number is out of range, or the split would be empty.
    """

    def __init__(
        self,
        *,
        min_digits: int = 3,
        max_digits: int = 4,
        num_prompts: int = 100_000,
        num_held_out: int = 1_000,
        careless: float = 0.5,
        slip: float = 0.02,
        seed: int = 0,
    ) -> None:
        if not 1 <= min_digits <= max_digits:
            raise UserError(f"task.min_digits is {min_digits} and task.max_digits {max_digits}: they need 1 <= min_digits <= max_digits")
        if num_prompts < 1 or num_held_out < 1:
            raise UserError(
                f"task.num_prompts is {num_prompts} and task.num_held_out {num_held_out}: the task is empty, both need 1 or more"
            )
        if not (0 <= careless <= 1 and 0 <= slip <= 1):
            raise UserError(f"task.careless is {careless} and task.slip {slip}: both are probabilities between 0 and 1")
        self._digits = (min_digits, max_digits)
        self._sizes = {"train": num_prompts, "held_out": num_held_out}
        self._careless = careless
        self._slip = slip
        self._seed = seed

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The sums of `train` or `held_out`; no pair of numbers is in both."""
        return _Sums(self._sizes[split], split, self._digits, self._seed)

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """1 if the response ends by itself and the number after its last `#` is the sum, else 0."""
        stated = completion.text.rpartition("#")[2]
        return CORRECT if completion.finished and "#" in completion.text and stated == prompt.answer else 0.0

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """A worked sum, with errors at the rates `careless` and `slip`."""
        # Row 0: one number for the carries, then one per column that decides an error; row 1: its sign.
        noise = torch.rand(2, 32, generator=generator, dtype=torch.float64).tolist()
        forgets = noise[0][0] < self._careless
        left, right = prompt.text.removesuffix("=").split("+")
        width = max(len(left), len(right))
        columns, digits, carry = [], [], 0
        for index in range(width):
            a = int(left[-1 - index]) if index < len(left) else 0
            b = int(right[-1 - index]) if index < len(right) else 0
            total = a + b + carry
            if noise[0][1 + index] < self._slip:
                total = max(0, total + (1 if noise[1][index] < 0.5 else -1))
            columns.append(f"{a}+{b}+{carry}={total:02d}")
            digits.append(str(total % 10))
            carry = 0 if forgets else total // 10
        digits.append(str(total // 10))
        stated = int("".join(reversed(digits)))
        return f"{' '.join(columns)} #{stated}"


class _Sums(Sequence[Prompt]):
    """Prompts generated on access: item i depends on the seed, the split and i alone."""

    def __init__(self, size: int, split: str, digits: tuple[int, int], seed: int) -> None:
        self._size = size
        self._split = split
        self._digits = digits
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(self._size))]
        if not 0 <= index < self._size:
            raise IndexError(index)
        rng = random.Random(derive_seed(self._seed, "arithmetic", self._split, index))
        while True:
            numbers = [self._number(rng) for _ in range(2)]
            held_out = derive_seed(0, "held_out", *sorted(numbers)) % _HELD_OUT_EVERY == 0
            if held_out == (self._split == "held_out"):
                return Prompt(text=f"{numbers[0]}+{numbers[1]}=", answer=str(sum(numbers)))

    def _number(self, rng: random.Random) -> int:
        num_digits = rng.randint(*self._digits)
        return rng.randint(10 ** (num_digits - 1), 10**num_digits - 1)
