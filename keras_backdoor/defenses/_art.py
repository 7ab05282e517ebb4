"""The parts of the Adversarial Robustness Toolbox (ART) that are right, behind plain functions.

This is the only file that imports ART. In ART 1 means clean and 0 poison; here True means poison.
Nicolae et al., Adversarial Robustness Toolbox v1.0.0, 2018.
"""

import logging.config
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
"""`predict(rows) -> classes` of the images in these rows."""


def smaller_clusters(clusters: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Flag the smallest cluster of every class, whatever its size; ART's rule `smaller`.

    Args:
        clusters: for each class the (m,) number of the cluster of each image.

    Returns:
        For each class (m,) bool, whether the image is in the smallest cluster.

    >>> smaller_clusters([np.array([0, 0, 0, 1])])[0].tolist()
    [False, False, False, True]
    """
    is_clean, _, _ = _analyzer().analyze_by_size(list(clusters))
    return [np.asarray(values, float) == 0 for values in is_clean]


def clusters_nearer_to_another_class(
    clusters: Sequence[np.ndarray], points: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Flag the clusters that are nearer to another class than to their own; ART's rule `distance`.

    The distances are those of the medians. A cluster is flagged if its median is nearer to that of
    another class than to that of its own class, while the other cluster is not.

    Args:
        clusters: for each class the (m,) number of the cluster, 0 or 1, of each image.
        points: for each class the (m, d) coordinates of the images, in a space of all classes.

    Returns:
        For each class (m,) bool, whether the image is in a flagged cluster.
    """
    is_clean, _, _ = _analyzer().analyze_by_distance(list(clusters), list(points))
    return [np.asarray(values, float) == 0 for values in is_clean]


def clusters_by_fast_ica(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The clusters that ART finds with its defaults: FastICA to 10 components and k-means.

    Args:
        features: for each class (m, d) features.

    Returns:
        For each class the (m,) number of the cluster of each image, 0 or 1.
    """
    with _quietly():
        from art.defences.detector.poison.activation_defence import cluster_activations
    clusters, _ = cluster_activations(list(features), nb_clusters=2, nb_dims=10, reduce="FastICA")
    return [np.asarray(numbers) for numbers in clusters]


def uncentered_scores(features: np.ndarray) -> np.ndarray:
    """The outlier scores of ART's spectral signatures, |v · r|.

    ART computes v, the first right singular vector, from the centered features, but projects the
    features r as they are. The scores of Tran et al. are (v · (r - mean))².

    Args:
        features: (n, d) features of the images of one class.

    Returns:
        (n,) scores.
    """
    with _quietly():
        from art.defences.detector.poison.spectral_signature_defense import (
            SpectralSignatureDefense,
        )
    scores: np.ndarray = SpectralSignatureDefense.spectral_signature_scores(features)[:, 0]
    return scores


def suspected_origins(
    origin: np.ndarray,
    trained: Callable[[np.ndarray], Predict],
    labels: np.ndarray,
    *,
    trusted: np.ndarray | None,
    eps: float,
    share: float,
    seed: int,
) -> dict[int, float]:
    """The origins that ART's provenance defense suspects, see `Provenance`.

    ART compares the pixels of images to tell which belong to an origin, which drops rows of all
    origins if the images have few values. Here it gets row numbers in the place of images, which
    are unique.

    Args:
        origin: (n,) the number of the origin of each training image, from 0.
        trained: `trained(rows) -> predict`, which trains a network on rows of the training data and
            returns `predict(rows) -> classes`. It has to give the same network for the same rows.
        labels: the labels by row, of the training images and then of the trusted ones.
        trusted: the rows of the trusted images, or None.
        eps: the difference of the accuracies above which an origin is suspected.
        share: the share of the training images that takes the place of the trusted ones if there
            are none.
        seed: the seed of this split.

    Returns:
        Origin -> difference of the accuracies.
    """
    with _quietly():
        from art.defences.detector.poison.provenance_defense import ProvenanceDefense
    rows = np.arange(len(origin))[:, None]
    held = {} if trusted is None else {"x_val": trusted[:, None], "y_val": labels[trusted]}
    defense = ProvenanceDefense(
        _Refitted(trained),
        rows,
        labels[: len(origin)],
        np.eye(int(origin.max()) + 1, dtype=int)[origin],
        eps=eps,
        perf_func=_accuracy,
        pp_valid=share,
        **held,
    )
    with _numpy_seed(seed):
        suspected, _ = defense.detect_poison()
    return {int(number): float(difference) for number, difference in suspected.items()}


class _Refitted:
    """What ART takes for a classifier: it is trained and asked by row numbers."""

    def __init__(self, trained: Callable[[np.ndarray], Predict]) -> None:
        self._trained = trained
        self.predict: Predict | None = None

    def __deepcopy__(self, memo: Any) -> "_Refitted":
        return _Refitted(self._trained)

    def fit(self, rows: np.ndarray, labels: np.ndarray) -> None:
        predict = self._trained(np.sort(rows[:, 0]))
        self.predict = lambda asked: predict(asked[:, 0])


def _accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float((labels == predicted).mean())


def _analyzer() -> Any:
    with _quietly():
        from art.defences.detector.poison.clustering_analyzer import ClusteringAnalyzer
    return ClusteringAnalyzer()


@contextmanager
def _quietly() -> Iterator[None]:
    """Import ART without side effects on the process.

    It configures logging, which closes the handlers of everybody else, and warns that PyTorch is
    not installed.
    """
    configure = logging.config.dictConfig
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PyTorch not found")
        try:
            logging.config.dictConfig = lambda settings: None  # type: ignore[assignment]
            yield
        finally:
            logging.config.dictConfig = configure


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which ART draws from, and restore its state afterward."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
