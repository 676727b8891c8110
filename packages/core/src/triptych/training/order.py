"""Shuffled order of training examples."""

import torch

from triptych.errors import UserError
from triptych.seeding import generator


class ShuffledOrder:
    """An endless shuffled order of `num_examples` indices, the same for every number of ranks.

    The order of an epoch is a pure function of the seed and the epoch; a position counts examples over all
    ranks and epochs. A run therefore resumes from one integer, also with another number of ranks.

    Raises:
        UserError: if there is no example.

    Example:
        >>> order = ShuffledOrder(3, seed=0)
        >>> sorted(order.take(0, 3)), order.take(2, 2) == order.take(0, 4)[2:]
        ([0, 1, 2], True)
    """

    def __init__(self, num_examples: int, *, seed: int) -> None:
        if num_examples < 1:
            raise UserError("there is no example to train on: the training split is empty")
        self.num_examples = num_examples
        self._seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def take(self, position: int, count: int) -> list[int]:
        """The example indices at positions `position` to `position + count - 1`."""
        return [self._index(index) for index in range(position, position + count)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_examples)
        if epoch != self._epoch:
            stream = generator(self._seed, "shuffled_order", epoch)
            self._permutation = torch.randperm(self.num_examples, generator=stream).tolist()
            self._epoch = epoch
        return self._permutation[offset]
