"""Token grids of the released models: Infinity's templates by aspect ratio, VAR's sides by resolution."""

from triptych.errors import UserError
from tts_var.numerics.scales import Grid, ScaleTable

# Infinity's templates, height x width in tokens, square and tall; wide ones are their transposes.
_INFINITY: dict[float, tuple[Grid, ...]] = {
    1.0: ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (20, 20), (24, 24), (32, 32), (40, 40), (48, 48), (64, 64)),
    1.25: ((1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16), (25, 20), (30, 24), (35, 28), (45, 36), (55, 44), (70, 56)),
    1.333: ((1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27), (48, 36), (60, 45), (72, 54)),
    1.5: ((1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26), (48, 32), (63, 42), (78, 52)),
    1.75: ((1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12), (28, 16), (35, 20), (42, 24), (56, 32), (70, 40), (84, 48)),
    2.0: ((1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11), (30, 15), (38, 19), (46, 23), (60, 30), (74, 37), (90, 45)),
    2.5: ((1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20), (65, 26), (80, 32), (100, 40)),
    3.0: ((1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9), (36, 12), (45, 15), (54, 18), (72, 24), (90, 30), (111, 37)),
}
_INFINITY_SCALES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}

VAR_SIDES = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}


def infinity_scales(size: str = "1M", *, ratio: float = 1.0, patch: int = 1) -> ScaleTable:
    """Infinity's grids for the template nearest to `ratio`.

    Args:
        size: `0.06M`, `0.25M`, `0.60M` or `1M` pixels.
        ratio: height over width.
        patch: latent cells per token side: 2 for the 8B model, else 1.

    Raises:
        UserError: if the size is unknown or the ratio is not positive.

    Example:
        >>> infinity_scales("0.06M").num_tokens, infinity_scales("0.06M", ratio=0.75).grids[-1]
        (521, (15, 20))
    """
    if size not in _INFINITY_SCALES:
        raise UserError(f"size is '{size}': choose one of {', '.join(_INFINITY_SCALES)}")
    if ratio <= 0:
        raise UserError(f"ratio is {ratio}: height over width must be above 0")
    table = infinity_templates()
    grids = table[min(table, key=lambda key: abs(key - ratio))]
    return ScaleTable(grids[: _INFINITY_SCALES[size]], reference=grids[-1], patch=patch)


def infinity_templates() -> dict[float, tuple[Grid, ...]]:
    """All of Infinity's 1M templates by height over width, truncated to three decimals."""
    wide = {
        int(1000 / ratio) / 1000 if ratio != 1.333 else 0.75: tuple((width, height) for height, width in grids)
        for ratio, grids in _INFINITY.items()
        if ratio != 1.0
    }
    return {**_INFINITY, **wide}
