"""Token grids of the scales of a model, and their offsets in the token sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from triptych.errors import UserError

Grid = tuple[int, int]


@dataclass(frozen=True)
class ScaleTable:
    """The token grids of one model, coarse to fine.

    Attributes:
        grids: (height, width) in tokens, one per scale.
        reference: the grid to which rotary positions are normalised; None for the last grid.
        patch: latent cells per token side (2 where a token covers 2 x 2 cells, else 1).

    Raises:
        UserError: if there are no grids or a grid is empty.

    Example:
        >>> table = ScaleTable(((1, 1), (2, 2), (4, 4)))
        >>> table.num_tokens, table.offsets, len(table)
        (21, (0, 1, 5), 3)
    """

    grids: tuple[Grid, ...]
    reference: Grid | None = None
    patch: int = 1

    def __post_init__(self) -> None:
        if not self.grids or any(height < 1 or width < 1 for height, width in self.grids):
            raise UserError(f"grids are {list(self.grids)}: give at least one grid, each with sides of 1 or more")

    def __len__(self) -> int:
        return len(self.grids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each scale."""
        return tuple(height * width for height, width in self.grids)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index of the first token of each scale in the sequence."""
        return (0, *accumulate(self.lengths))[:-1]

    @property
    def num_tokens(self) -> int:
        """Length of the whole sequence."""
        return sum(self.lengths)

    @property
    def latent_grids(self) -> tuple[Grid, ...]:
        """(height, width) of each scale in latent cells."""
        return tuple((height * self.patch, width * self.patch) for height, width in self.grids)

    @property
    def rotary_reference(self) -> Grid:
        """The grid to which rotary positions are normalised."""
        return self.reference or self.grids[-1]


def square_scales(sides: Sequence[int], *, patch: int = 1) -> ScaleTable:
    """Square grids of the given sides in tokens; `patch` latent cells per token side.

    Example:
        >>> square_scales((1, 2, 3, 4, 5, 6, 8, 10, 13, 16)).num_tokens
        680
    """
    return ScaleTable(tuple((int(side), int(side)) for side in sides), patch=patch)
