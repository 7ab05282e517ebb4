"""What the comparison of two networks finds: poisoned classes and their poisoned images."""

from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.defenses._class_features import ClassFeatures
from keras_backdoor.defenses._clusters import reduced
from keras_backdoor.defenses.label_disagreement.cores import COMPONENTS
from keras_backdoor.defenses.label_disagreement.opinions import Opinions, sure_disagreements

SHARE, LEAST = 0.005, 5
"""A class is poisoned if the repaired network is sure of another class for more than this share of
its images, and for at least this number."""
MAJORITY = 0.3
"""A class is poisoned if a network that has seen its smaller cluster is sure of other classes for
more than this share of the larger one."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a repaired network finds.

    Attributes:
        after: what the repaired network says.
        sure: (n,) bool, see `sure_disagreements`.
        poisoned: the poisoned classes.
        flagged: (n,) bool, the flagged images of the poisoned classes.
    """

    after: Opinions
    sure: np.ndarray
    poisoned: list[int]
    flagged: np.ndarray

    @classmethod
    def by(cls, before: Opinions, after: Opinions, data: ClassFeatures) -> "Found":
        """What two networks find.

        Args:
            before: what the examined network says.
            after: what its repaired copy says.
            data: the features and labels of the images.
        """
        sure = sure_disagreements(before, after, data.labels)
        poisoned = poisoned_classes(sure, data)
        return cls(after, sure, poisoned, flagged_among(poisoned, after, data))


def poisoned_classes(sure: np.ndarray, data: ClassFeatures) -> list[int]:
    """The classes with an unusual share of sure disagreements, see `LabelDisagreement`.

    Args:
        sure: (n,) bool, see `sure_disagreements`.
        data: the features and labels of the images.
    """
    found = []
    for label in data.examined:
        own = sure[data.rows(label)]
        if own.sum() >= LEAST and own.mean() > SHARE:
            found.append(label)
    return found


def flagged_among(poisoned: list[int], after: Opinions, data: ClassFeatures) -> np.ndarray:
    """(n,) bool, the flagged images of the poisoned classes, see `LabelDisagreement`."""
    flagged = np.zeros(len(data.labels), bool)
    for label in poisoned:
        rows = data.rows(label)
        flagged[rows] = on_the_flagged_side(data.of(label), after.predicted[rows] != label)
    return flagged


def on_the_flagged_side(features: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    """The images of a class that are flagged, or lie on the side of the flagged ones.

    Linear discriminant analysis of the first whitened principal components tells the flagged images
    from the others. The examined network separates poison from clean images better than single
    answers of its repaired copy do.

    Args:
        features: (m, d) features of the examined network.
        flagged: (m,) bool.

    Returns:
        (m,) bool.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if flagged.all() or flagged.sum() < 2:
        return flagged
    points = reduced(features, COMPONENTS)
    side: np.ndarray = LinearDiscriminantAnalysis().fit(points, flagged).predict(points)
    return flagged | side


def turned_around(found: Found, other: Found, labels: list[int], data: ClassFeatures) -> Found:
    """Flag the rest of a class if it is the poison.

    A network that has not seen one of two groups of a class is sure of other classes on poisoned
    images, which show other classes. It is less sure on clean ones, which show a class that it has
    not seen.

    Args:
        found: what a network finds that has not seen the flagged images of the classes.
        other: what a network finds that has seen only flagged images of the classes.
        labels: the classes.
        data: the features and labels of the images.
    """
    flagged, sure = found.flagged.copy(), found.sure.copy()
    for label in labels:
        rows = data.rows(label)
        inside = found.flagged[rows]
        if inside.all() or other.sure[rows[~inside]].mean() <= found.sure[rows[inside]].mean():
            continue
        flagged[rows] = flagged_among([label], other.after, data)[rows]
        sure[rows] = other.sure[rows]
    return replace(found, flagged=flagged, sure=sure)


def majorities(found: Found, core: np.ndarray, data: ClassFeatures) -> Found:
    """Keep the classes whose images outside the core are mostly poison.

    Args:
        found: what a network finds that has seen the core.
        core: (n,) bool, see `minor`.
        data: the features and labels of the images.
    """
    poisoned = []
    for label in data.examined:
        rows = data.rows(label)
        outside = found.sure[rows[~core[rows]]]
        if outside.mean() > MAJORITY:
            poisoned.append(label)
    flagged = flagged_among(poisoned, found.after, data)
    return replace(found, poisoned=poisoned, flagged=flagged)
