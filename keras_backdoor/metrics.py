"""Metrics of classifiers, attacks and audits, as pure functions of arrays.

Predictions are class numbers. A prediction of `reject_class`, which a guard adds to a model, is
neither correct nor a success of the attack. A share is returned as a `Rate`, which contains the
count, the number of cases and a confidence interval.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_backdoor.errors import BadInput


class Rate(NamedTuple):
    """A proportion: `hits` of `of` cases.

    Attributes:
        hits: the number of cases that are counted.
        of: the number of all cases.

    >>> rate = Rate(9, 12)
    >>> float(rate), f"{rate:.1%}"
    (0.75, '75.0%')
    """

    hits: int
    of: int

    def __float__(self) -> float:
        return self.hits / self.of if self.of else float("nan")

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson score interval of the proportion.

        Args:
            confidence: the confidence level, between 0 and 1.

        Returns:
            The lower and upper bound; NaN if there are no cases.

        >>> tuple(round(x, 3) for x in Rate(9, 12).interval())
        (0.468, 0.911)
        """
        from scipy.stats import binomtest

        if not self.of:
            return float("nan"), float("nan")
        bounds = binomtest(self.hits, self.of).proportion_ci(confidence, method="wilson")
        return float(bounds.low), float(bounds.high)

    def as_dict(self) -> dict[str, Any]:
        """The share, the counts and the 95 % confidence interval, as JSON values."""
        return {
            "share": float(self),
            "hits": self.hits,
            "of": self.of,
            "interval": list(self.interval()),
        }


def _rate(hits: np.ndarray) -> Rate:
    return Rate(int(np.count_nonzero(hits)), int(np.size(hits)))


def _pair(a: Any, b: Any, names: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1:
        raise BadInput(
            f"{names} must be (n,) arrays of the same length. Received: {a.shape}, {b.shape}"
        )
    return a, b


def clean_accuracy(predicted: Any, labels: Any) -> Rate:
    """Share of clean images that are classified correctly.

    Args:
        predicted: (n,) predicted classes.
        labels: (n,) true classes.

    >>> clean_accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    Rate(hits=3, of=4)
    """
    predicted, labels = _pair(predicted, labels, "predicted and labels")
    return _rate(predicted == labels)


def attack_success_rate(
    predicted: Any, labels: Any, target: int | np.ndarray, *, source: int | None = None
) -> Rate:
    """Share of stamped images of other classes that are classified as the target class.

    Args:
        predicted: (n,) predicted classes of the stamped images.
        labels: (n,) true classes.
        target: the target class of the backdoor, or (n,) the target of each image.
        source: the only class whose images are counted; None counts all classes except the
            target class.

    >>> attack_success_rate([7, 7, 1, 7], [0, 1, 1, 7], target=7)
    Rate(hits=2, of=3)
    >>> attack_success_rate([7, 7, 1, 7], [0, 1, 1, 7], target=7, source=1)
    Rate(hits=1, of=2)
    """
    predicted, labels = _pair(predicted, labels, "predicted and labels")
    wanted = np.broadcast_to(target, labels.shape)
    counted = labels != wanted if source is None else (labels == source) & (labels != wanted)
    return _rate(predicted[counted] == wanted[counted])


def attack_success_per_class(
    predicted: Any, labels: Any, target: int | np.ndarray
) -> dict[int, Rate]:
    """`attack_success_rate` of every source class that occurs in the labels."""
    labels = np.asarray(labels)
    sources = map(int, np.unique(labels[labels != target]))
    return {c: attack_success_rate(predicted, labels, target, source=c) for c in sources}


def robust_accuracy(predicted: Any, labels: Any) -> Rate:
    """Share of stamped images that are classified correctly.

    Args:
        predicted: (n,) predicted classes of the stamped images.
        labels: (n,) true classes.

    >>> robust_accuracy([7, 1], [0, 1])
    Rate(hits=1, of=2)
    """
    return clean_accuracy(predicted, labels)


def rejected(predicted: Any, reject_class: int | None) -> Rate:
    """Share of images that a guard rejects; 0 if there is no guard.

    Args:
        predicted: (n,) predicted classes.
        reject_class: the class number that means rejection, or None.

    >>> rejected([10, 3, 10], reject_class=10)
    Rate(hits=2, of=3)
    """
    predicted = np.asarray(predicted)
    if reject_class is None:
        return Rate(0, predicted.size)
    return _rate(predicted == reject_class)


def removed_poison(flagged: Any, is_poison: Any) -> Rate:
    """Share of the poisoned images that are flagged (recall).

    Args:
        flagged: (n,) bool, whether an image is flagged.
        is_poison: (n,) bool, whether an image is poisoned.

    >>> removed_poison([True, False, True], [True, True, False])
    Rate(hits=1, of=2)
    """
    flagged, is_poison = _pair(flagged, is_poison, "flagged and is_poison")
    return _rate(flagged[is_poison.astype(bool)])


def removed_clean(flagged: Any, is_poison: Any) -> Rate:
    """Share of the clean images that are flagged (false positive rate).

    Args:
        flagged: (n,) bool, whether an image is flagged.
        is_poison: (n,) bool, whether an image is poisoned.

    >>> removed_clean([True, False, True], [True, True, False])
    Rate(hits=1, of=1)
    """
    flagged, is_poison = _pair(flagged, is_poison, "flagged and is_poison")
    return _rate(flagged[~is_poison.astype(bool)])


def removed_per_class(flagged: Any, is_poison: Any, labels: Any) -> dict[int, dict[str, Rate]]:
    """`removed_poison` and `removed_clean` for every class.

    Args:
        flagged: (n,) bool, whether an image is flagged.
        is_poison: (n,) bool, whether an image is poisoned.
        labels: (n,) labels of the training data, as the attack left them.
    """
    flagged, is_poison = _pair(flagged, is_poison, "flagged and is_poison")
    _, labels = _pair(flagged, labels, "flagged and labels")
    return {
        int(c): {
            "removed_poison": removed_poison(flagged[labels == c], is_poison[labels == c]),
            "removed_clean": removed_clean(flagged[labels == c], is_poison[labels == c]),
        }
        for c in np.unique(labels)
    }


def auroc(scores: Any, is_poison: Any) -> float:
    """Area under the ROC curve of a suspicion score.

    Args:
        scores: (n,) scores; a higher score is more suspicious.
        is_poison: (n,) bool, whether an image is poisoned.

    Returns:
        The area; NaN if all images are poisoned or all are clean.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    from sklearn.metrics import roc_auc_score

    scores, is_poison = _pair(scores, is_poison, "scores and is_poison")
    if len(np.unique(is_poison)) < 2:
        return float("nan")
    return float(roc_auc_score(is_poison, scores))


def confusion_matrix(predicted: Any, labels: Any, classes: int) -> np.ndarray:
    """Count the pairs of label and prediction.

    Args:
        predicted: (n,) predicted classes.
        labels: (n,) true classes.
        classes: the number of classes; a guard adds one.

    Returns:
        (classes, classes) int; rows are labels, columns are predictions.

    >>> confusion_matrix([0, 1, 1], [0, 0, 1], classes=2)
    array([[1, 1],
           [0, 1]])
    """
    from sklearn.metrics import confusion_matrix as count

    predicted, labels = _pair(predicted, labels, "predicted and labels")
    return np.asarray(count(labels, predicted, labels=np.arange(classes)))
