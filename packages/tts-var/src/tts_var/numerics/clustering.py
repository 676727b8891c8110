"""Selection of diverse particles: one representative per k-means cluster of their features.

Source: TTS-VAR (arXiv 2507.18537), section 3.2.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from triptych.errors import UserError

PROJECTIONS = ("pool", "pca", "shared_pca")


def project(patches: Float[Tensor, "particles tokens channels"], projection: str) -> Float[Tensor, "particles coordinates"]:
    """One vector per particle from its patch features.

    `pool` is the mean over tokens. `pca` is the coordinate of every token along the particle's own first principal
    direction (the paper); its sign is arbitrary and is chosen such that the direction's largest entry in magnitude is
    positive. `shared_pca` uses the first principal direction of the tokens of all particles.

    Raises:
        UserError: if the projection is unknown, or `pca` has one token per particle: a single token has no principal direction.
    """
    if projection == "pool":
        return patches.mean(1)
    if projection == "pca":
        if patches.shape[1] == 1:
            raise UserError("projection=pca needs patch features, but the features are one vector per image: use projection=pool")
        return torch.stack([_first_coordinate(tokens, tokens) for tokens in patches])
    if projection == "shared_pca":
        everything = patches.flatten(0, 1)
        return _first_coordinate(everything, everything).view(patches.shape[:2])
    raise UserError(f"projection is '{projection}': choose one of {', '.join(PROJECTIONS)}")


def representatives(vectors: Float[Tensor, "particles coordinates"], count: int, *, seed: int) -> Int[Tensor, " count"]:
    """The particle nearest to the centre of each of `count` k-means clusters (k-means++ start).

    If k-means returns fewer clusters because particles coincide, the remaining representatives are the particles
    farthest from those already chosen, so that `count` distinct particles always survive.

    Args:
        vectors: one vector per particle.
        count: number of clusters, at most the number of particles.
        seed: seed of k-means, below 2 ** 32.

    Returns:
        Distinct indices, in the order of the clusters.

    Raises:
        UserError: if there are fewer particles than clusters, or a feature is not finite.
    """
    if count > len(vectors):
        raise UserError(f"{len(vectors)} particles cannot form {count} clusters: keep at most the number of particles")
    points = vectors.double().numpy()
    if not np.isfinite(points).all():
        raise UserError("the features of a particle are not finite: use a features model trained for this kind of image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised for fewer distinct points than clusters, which is handled below
        fitted = KMeans(n_clusters=count, init="k-means++", random_state=seed).fit(points)
    # points (particles, coordinates), cluster_centers_ (count, coordinates): the member nearest to each centre. The greedy
    # farthest-point loop below runs only for empty clusters.
    chosen: list[int] = []
    for cluster in range(count):
        members = np.flatnonzero(fitted.labels_ == cluster)
        if len(members):
            distances = np.linalg.norm(points[members] - fitted.cluster_centers_[cluster], axis=1)
            chosen.append(int(members[distances.argmin()]))
    while len(chosen) < count:
        left = [index for index in range(len(points)) if index not in chosen]
        nearest = [min(float(np.linalg.norm(points[index] - points[other])) for other in chosen) for index in left]
        chosen.append(left[int(np.argmax(nearest))])
    return torch.tensor(chosen)


def _first_coordinate(tokens: Tensor, basis_tokens: Tensor) -> Tensor:
    # tokens (n, channels), basis_tokens (m, channels); the first right singular vector of the centred basis is the first
    # principal direction (channels,). Float64, because near-equal singular values make the direction sensitive to rounding.
    centred = (basis_tokens - basis_tokens.mean(0)).double()
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    direction = direction * torch.sign(direction[direction.abs().argmax()])
    return ((tokens - basis_tokens.mean(0)).double() @ direction).to(tokens)
