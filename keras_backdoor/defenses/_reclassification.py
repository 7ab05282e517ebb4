"""Exclusionary reclassification: what a network makes of images that it was not trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reclassified:
    """What a network that was trained without a cluster makes of its images.

    Attributes:
        kept: l, the number of images that are classified as their label.
        moved: p, the number of images that are classified as the most frequent other class.
        other: this other class.
        sure: the mean probability of the predicted classes.
    """

    kept: int
    moved: int
    other: int
    sure: float

    @property
    def suspicion(self) -> float:
        """p / (l + p): above 1/2 if l / p is below 1."""
        return self.moved / max(1, self.kept + self.moved)


def reclassified(scores: np.ndarray, label: int) -> Reclassified:
    """Count the classes that the images of a cluster are reclassified as.

    Chen et al., 2018, exclusionary reclassification: a cluster is poison if l / p < T, with l the
    number of its images that a network trained without them classifies as their label, and p the
    number of those that it classifies as the most frequent other class, which is the source class.

    Args:
        scores: (m, k) probabilities of the network for the images of the cluster.
        label: the label of the images.

    >>> found = reclassified(np.array([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4]]), 0)
    >>> found.kept, found.moved, found.other, round(found.suspicion, 2)
    (1, 2, 1, 0.67)
    """
    counts = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
    kept = int(counts[label])
    counts[label] = -1
    other = int(counts.argmax())
    return Reclassified(kept, int(counts[other]), other, float(scores.max(axis=1).mean()))


def poison_among(clusters: Mapping[int, Reclassified], ratio: float) -> list[int]:
    """The numbers of the clusters of a class that are poison, see `ActivationClustering`.

    >>> kept, moved = Reclassified(9, 1, 1, 0.9), Reclassified(1, 9, 1, 0.9)
    >>> poison_among({0: kept, 1: moved}, 1.0)
    [1]
    >>> poison_among({0: moved, 1: Reclassified(4, 4, 1, 0.7)}, 1.0)
    [0]
    """
    moved = [n for n, r in clusters.items() if r.kept < ratio * r.moved]
    if 0 not in moved or len(clusters) < 2:
        return moved
    least = min(clusters, key=lambda n: clusters[n].sure)
    return [n for n in clusters if n != least]
