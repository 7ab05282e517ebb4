"""Reduce the features of one class to a few dimensions, and split its images into clusters."""

import warnings
from typing import Literal

import numpy as np

Reducer = Literal["whitened-pca", "fast-ica", "pca"]
REDUCERS = ("whitened-pca", "fast-ica", "pca")
STARTS = 5
"""The number of random starts of k-means, of which the best is taken."""
SILHOUETTE_ON = 2000
"""The largest number of images that a silhouette is computed on."""


def reduced(
    features: np.ndarray, components: int, reducer: Reducer = "whitened-pca", seed: int = 0
) -> np.ndarray:
    """Project the features of a class on a few components.

    Chen et al. use independent components (FastICA). FastICA whitens the principal components and
    rotates them, and k-means does not depend on a rotation, so that the clusters are those of the
    whitened principal components. Whitened components whose variance is rounding error are left
    out; FastICA fails on them.

    Args:
        features: (m, d) features.
        components: the largest number of components.
        reducer: `whitened-pca` for principal components of variance 1, `fast-ica` for independent
            components, `pca` for principal components as they are (the default of ART).
        seed: the seed of FastICA.

    Returns:
        (m, k) coordinates, k of at most `components`.

    >>> points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 20.0], [2.0, 20.0]])
    >>> np.abs(reduced(points, 2)).round(3).tolist()[0]
    [0.866, 0.866]
    """
    from sklearn.decomposition import PCA, FastICA

    centered = features - features.mean(axis=0)
    number = min(components, *centered.shape)
    solver = "covariance_eigh" if centered.shape[1] <= len(centered) else "full"
    pca = PCA(number, svd_solver=solver)
    coordinates: np.ndarray = pca.fit_transform(centered)
    variances = pca.explained_variance_
    coordinates = coordinates[:, variances > 1e-9 * variances[0]]
    if reducer == "pca":
        return coordinates
    coordinates = coordinates / coordinates.std(axis=0, ddof=1)
    if reducer == "fast-ica" and coordinates.shape[1] > 1:
        independent = FastICA(whiten="unit-variance", random_state=seed, max_iter=1000, tol=1e-3)
        coordinates = independent.fit_transform(coordinates)
    return coordinates


def clustered(points: np.ndarray, clusters: int = 2, seed: int = 0) -> np.ndarray:
    """Split points by k-means; the clusters are numbered by size, the largest first.

    Args:
        points: (m, k) coordinates.
        clusters: the number of clusters.
        seed: the seed of the starts.

    Returns:
        (m,) the number of the cluster of each point, from 0.

    >>> clustered(np.array([[0.0], [9.0], [0.1], [0.2]])).tolist()
    [0, 1, 0, 0]
    """
    from sklearn.cluster import KMeans

    means = KMeans(min(clusters, len(points)), n_init=STARTS, random_state=seed)
    numbers = means.fit_predict(points)
    order = np.argsort(-np.bincount(numbers, minlength=clusters), kind="stable")
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(len(order))
    by_size: np.ndarray = ranks[numbers]
    return by_size


def grown(points: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The points of the group that some of them belong to.

    Two normal distributions are fitted by expectation maximization, which starts at the means of
    the given points and of the others.

    Args:
        points: (m, k) whitened coordinates.
        seeds: (m,) bool, some points of the group.

    Returns:
        (m,) bool.

    >>> points = np.concatenate([np.random.default_rng(0).normal(m, 0.1, (50, 1)) for m in (0, 5)])
    >>> grown(points, np.arange(100) < 5).sum()
    np.int64(50)
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if seeds.all() or not seeds.any():
        return seeds
    means = np.stack([points[~seeds].mean(axis=0), points[seeds].mean(axis=0)])
    mixture = GaussianMixture(2, means_init=means, reg_covar=1e-3, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        group: np.ndarray = mixture.fit_predict(points) == 1
    return group


def silhouette(points: np.ndarray, clusters: np.ndarray, seed: int = 0) -> float:
    """The mean silhouette coefficient of the points; NaN if there is one cluster.

    Rousseeuw, Silhouettes, 1987: (b - a) / max(a, b) with the mean distance a to the points of the
    own cluster and b to those of the nearest other one. Of many points a random part is used.
    """
    from sklearn.metrics import silhouette_score

    if len(np.unique(clusters)) < 2:
        return float("nan")
    size = SILHOUETTE_ON if len(points) > SILHOUETTE_ON else None
    return float(silhouette_score(points, clusters, sample_size=size, random_state=seed))
