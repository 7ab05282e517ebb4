"""The images of each class that a repair takes for clean."""

import numpy as np
from scipy.stats import chi2

from keras_backdoor.defenses._class_features import ClassFeatures
from keras_backdoor.defenses._clusters import clustered, grown, reduced
from keras_backdoor.defenses.spectral_signatures import QUANTILE, whitened_distances

COMPONENTS = 10
"""The number of principal components in which poison is told from clean images."""


def central(data: ClassFeatures, margin: np.ndarray) -> np.ndarray:
    """(n,) bool, the half of the images of each examined class that is nearest to its median.

    Args:
        data: the features and labels of the images.
        margin: (n,) see `Opinions`; a backdoor may show in it alone.
    """
    core = np.zeros(len(data.labels), bool)
    for label, distances in data.map(lambda f: whitened_distances(f, COMPONENTS)).items():
        rows = data.rows(label)
        core[nearest_half(rows, distances, margin)] = True
    return core


def nearest_half(rows: np.ndarray, distances: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """The rows of the half of some images that is nearest to their median.

    Args:
        rows: (m,) the rows of the images.
        distances: (m,) the distances of their features, see `whitened_distances`.
        margin: (n,) the margins of all images.
    """
    own = margin[rows]
    center = np.median(own)
    spread = max(np.median(np.abs(own - center)) / 0.6745, 1e-3 * own.std())
    if spread > 0:
        distances = np.maximum(distances, ((own - center) / spread) ** 2 / chi2.ppf(QUANTILE, 1))
    return rows[np.argsort(distances, kind="stable")[: (len(rows) + 1) // 2]]


def minor(data: ClassFeatures) -> np.ndarray:
    """(n,) bool, the smaller of two clusters of each examined class."""
    core = np.zeros(len(data.labels), bool)
    for label, clusters in data.map(lambda f: clustered(reduced(f, COMPONENTS))).items():
        core[data.rows(label)] = clusters == 1
    return core


def drawn_anew(
    core: np.ndarray,
    flagged: np.ndarray,
    labels: list[int],
    data: ClassFeatures,
    margin: np.ndarray,
) -> np.ndarray:
    """The core with other images of some classes.

    They are not flagged, and not in the group of images that the flagged ones belong to by their
    features (see `grown`), which may be the majority of the class.
    """
    core = core.copy()
    for label in labels:
        rows, features = data.rows(label), data.of(label)
        own = flagged[rows]
        group = grown(reduced(features, COMPONENTS), own)
        inside = ~own if group.all() or own[group].mean() < own[~group].mean() else ~own & ~group
        core[rows] = False
        if inside.any():
            distances = whitened_distances(features[inside], COMPONENTS)
            core[nearest_half(rows[inside], distances, margin)] = True
    return core
