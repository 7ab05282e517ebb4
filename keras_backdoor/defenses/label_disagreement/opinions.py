"""What the examined network and its repaired copy say of the training images."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

SURE = 0.9
"""The probability from which on the repaired network is sure of another class."""
TINY = 1e-30
"""The smallest probability that a margin distinguishes."""


@dataclass(frozen=True, eq=False)
class Opinions:
    """What a network says of labeled images.

    Attributes:
        of_label: (n,) the probability of the label.
        predicted: (n,) the most probable class.
        sure: (n,) its probability.
        margin: (n,) ln of the probability of the label over the largest other one.
    """

    of_label: np.ndarray
    predicted: np.ndarray
    sure: np.ndarray
    margin: np.ndarray

    @classmethod
    def of(cls, model: Classifier, samples: Samples) -> dict[str, np.ndarray]:
        """The attributes by name, computed batch by batch."""
        labels, parts, start = samples.known_labels, [], 0
        for scores in model.stream(samples, model.probabilities):
            own = labels[start : start + len(scores)]
            start += len(scores)
            at = np.arange(len(own)), own
            other = scores.copy()
            other[at] = 0.0
            margin = np.log(scores[at] + TINY) - np.log(other.max(axis=1) + TINY)
            parts.append((scores[at], scores.argmax(axis=1), scores.max(axis=1), margin))
        names = ("of_label", "predicted", "sure", "margin")
        return {n: np.concatenate(p) for n, p in zip(names, zip(*parts, strict=True), strict=True)}


def sure_disagreements(before: Opinions, after: Opinions, labels: np.ndarray) -> np.ndarray:
    """(n,) bool, whether a network gives the label and its repaired copy is sure of another class.

    >>> nothing = np.zeros(2)
    >>> before = Opinions(np.array([0.9, 0.9]), np.array([1, 1]), np.array([0.9, 0.9]), nothing)
    >>> after = Opinions(np.array([0.0, 0.6]), np.array([0, 1]), np.array([0.99, 0.6]), nothing)
    >>> sure_disagreements(before, after, np.array([1, 1])).tolist()
    [True, False]
    """
    obeyed = before.predicted == labels
    found: np.ndarray = obeyed & (after.predicted != labels) & (after.sure >= SURE)
    return found
