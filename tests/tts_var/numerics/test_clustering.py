"""Clustering: one representative per cluster, independent of the sign of a principal direction."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.numerics.clustering import project, representatives


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_representatives_are_one_of_each_cluster() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [10.0, 0.0], [10.1, 0.1], [0.0, 10.0]])
    chosen = set(representatives(points, 3, seed=0).tolist())
    assert 4 in chosen
    assert len(chosen & {0, 1}) == len(chosen & {2, 3}) == 1


@given(st.integers(1, 6), st.integers(1, 6))
def test_duplicates_never_shrink_the_batch(distinct: int, count: int) -> None:
    points = torch.arange(6).remainder(distinct).float()[:, None]
    chosen = representatives(points, count, seed=0).tolist()
    assert len(set(chosen)) == count
    assert len({float(points[index]) for index in chosen}) == min(distinct, count)


def test_principal_coordinates_do_not_depend_on_an_arbitrary_sign() -> None:
    patches = torch.randn(3, 16, 4, generator=stream())
    coordinates = project(patches, "pca")
    for tokens, found in zip(patches.double().numpy(), coordinates.double().numpy(), strict=True):
        # Independent reference: eigenvectors of the covariance.
        centred = tokens - tokens.mean(0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        direction *= np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(found, centred @ direction, atol=1e-5)
    assert torch.equal(project(patches, "pool"), patches.mean(1))
