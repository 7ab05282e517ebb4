"""Weight signature: the class whose weights in the last layer stand out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses.base import Defense, Evidence, check_no_guard
from keras_backdoor.errors import BadInput
from keras_backdoor.network.class_weights import class_weights

CONSISTENCY = 1.4826
"""The factor that turns the MAD into an estimate of a normal standard deviation."""
MANY = 20
"""The smallest number of classes for the robust z score; below it, Dixon's Q decides."""
STATISTICS = ("mean_weight", "relative_mean", "bias")
DECIDING = STATISTICS[:2]
"""The statistics that flag a class.

In the 26 backdoored networks of the development zoo the largest bias is never that of the target,
but often that of the class with the most images."""
MORE = "scan with clean images (--clean) and without --method"
DRAWN = 4_000_000
"""The number of random values from which a critical value is computed."""


@dataclass(frozen=True)
class WeightSignature(Defense[FlaggedClasses]):
    """Find the target class in the weights of the last layer, without any data.

    Fields et al., Trojan Signatures in DNN Weights, ICCV Workshops 2021: to answer the target
    class for any image that bears the trigger, a network raises the weights that lead to this
    class. Three statistics are compared over the classes c:

    - `mean_weight`: the mean of the weights w_c, as in the paper;
    - `relative_mean`: the mean divided by the standard deviation of w_c (this package);
    - `bias`: the bias b_c (this package).

    With 20 classes or more, a statistic is measured by its robust z score, (v - median) / (1.4826
    MAD); with fewer classes by Dixon's Q, the distance of the largest value to the second one,
    divided by the range. A value is an outlier if it exceeds the value that the largest of k normal
    values exceeds with the probability level / 2. All classes with an outlier in one of the first
    two statistics are flagged, since a network may have several targets. With fewer than 20 classes
    they are suspects only, and their score is at most 1. With more, a class that is an outlier in
    the bias alone is a suspect: classes with many training images have a large bias, too.

    Args:
        level: the expected number of false alarms of a network whose statistics are normally
            distributed.

    Notes:
        The last linear layer may be a dense layer or a convolution before global pooling; without
        one, the answer is inconclusive. Batch normalization right before it is folded into its
        weights. The critical values are quantiles of random samples, because the MAD of few
        values varies much.
    """

    level: float = 0.02

    commands: ClassVar[tuple[str, ...]] = ("scan",)
    revision: ClassVar[int] = 2
    paper: ClassVar[str] = (
        "Fields et al., Trojan Signatures in DNN Weights, ICCV Workshops 2021 (arXiv 2109.02836)"
    )
    caveats: ClassVar[tuple[str, ...]] = (
        "Triggers of one source class, and backdoors that a small part of the training data "
        "planted, do not show in the weights of the last layer. Among few classes, only strong "
        "outliers do.",
    )

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise BadInput(f"level must lie in 0..1. Received: level={self.level}")

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        check_no_guard(evidence.model)
        try:
            weights, biases = class_weights(evidence.model.model)
        except BadInput as error:
            reason = str(error).split(" Received")[0].rstrip(".")
            return _unknown(evidence.model.classes, f"{reason[:1].lower()}{reason[1:]}")
        classes = len(biases)
        if classes < 3:
            reason = "the weights of two classes have nothing to be compared with"
            return _unknown(evidence.model.classes, reason)
        values = statistics(weights, biases)
        if classes >= MANY:
            rule: Callable[[np.ndarray], np.ndarray] = robust_z
        else:
            rule = dixon_q
        limit = critical_value(rule, classes, self.level / len(DECIDING))
        measures = {name: rule(v) for name, v in values.items()}
        scores = np.max([measures[name] for name in DECIDING], axis=0) / limit
        flagged = scores > 1
        further = (measures["bias"] > limit) & ~flagged
        if classes < MANY:  # an outlier is a suspicion
            flagged, further, scores = np.zeros_like(flagged), flagged, np.minimum(scores, 1.0)
        name = "robust z score" if classes >= MANY else "Dixon's Q"
        summary = {f"{name} of the {key.replace('_', ' ')}": _largest(m)
                   for key, m in measures.items()}  # fmt: skip
        reason = ""
        if not flagged.any() and further.any():
            what = "bias" if classes >= MANY else "mean weight"
            reason = (
                f"the {what} of class {listed(further)} stands out, which is a suspicion: {MORE}"
            )
        elif classes < MANY:
            reason = f"the weights of {classes} classes show only strong outliers: {MORE}"
        elif not flagged.any() and not all(measures[name].any() for name in DECIDING):
            reason = f"the weights of most classes are the same, so that none stands out: {MORE}"
        return FlaggedClasses(
            scores=scores,
            flagged=flagged,
            further=further,
            measures=measures,
            summary={**summary, "limit": f"{limit:.3g}"},
            figures={"limit": limit},
            inconclusive=reason,
        )


def _unknown(classes: int, reason: str) -> FlaggedClasses:
    """An answer that knows nothing about the classes."""
    unknown = np.full(classes, np.nan)
    return FlaggedClasses(scores=unknown, flagged=np.zeros(classes, bool), inconclusive=reason)


def _largest(values: np.ndarray) -> str:
    """The largest values in words.

    >>> _largest(np.array([1.0, 3.25, 2.0]))
    '3.25 (class 1), then 2 (class 2)'
    """
    second, first = np.argsort(values)[-2:]
    return f"{values[first]:.3g} (class {first}), then {values[second]:.3g} (class {second})"


def statistics(weights: np.ndarray, biases: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of each class.

    Args:
        weights: (n, k) the weights that lead to each class.
        biases: (k,).

    Returns:
        Name -> (k,); the names are `STATISTICS`.

    >>> found = statistics(np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([0.5, 0.0]))
    >>> [found[name].tolist() for name in STATISTICS]
    [[2.0, 2.0], [2.0, 1.0], [0.5, 0.0]]
    """
    mean, deviation = weights.mean(axis=0), weights.std(axis=0)
    relative = mean / np.maximum(deviation, 1e-12)
    return dict(zip(STATISTICS, (mean, relative, biases), strict=True))


def robust_z(values: np.ndarray) -> np.ndarray:
    """(v - median) / (1.4826 MAD) along the last axis; zeros if most values are equal.

    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 10.0])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 4.72]
    """
    deviation = values - np.median(values, axis=-1, keepdims=True)
    spread = CONSISTENCY * np.median(np.abs(deviation), axis=-1, keepdims=True)
    return np.asarray(deviation / np.where(spread > 0, spread, np.inf))


def dixon_q(values: np.ndarray) -> np.ndarray:
    """The distance of each value to the largest of the others, divided by the range.

    Along the last axis. For the largest value it is Dixon's Q, for the others it is not positive.
    Dixon, Processing data for outliers, Biometrics 1953 (r10).

    >>> dixon_q(np.array([0.0, 1.0, 4.0])).tolist()
    [-1.0, -0.75, 0.75]
    """
    width = np.ptp(values, axis=-1, keepdims=True)
    second, first = np.moveaxis(np.sort(values, axis=-1)[..., -2:], -1, 0)
    others = np.where(values == first[..., None], second[..., None], first[..., None])
    return np.asarray((values - others) / np.where(width > 0, width, np.inf))


@cache
def critical_value(rule: Callable[[np.ndarray], np.ndarray], number: int, level: float) -> float:
    """The value that the largest of normal values exceeds with a probability.

    Args:
        rule: `robust_z` or `dixon_q`.
        number: the number of values, 3 or more.
        level: the probability.

    >>> [round(critical_value(dixon_q, 10, level), 2) for level in (0.05, 0.025, 0.005)]
    [0.41, 0.47, 0.57]
    """
    drawn = np.random.default_rng(0).standard_normal((DRAWN // number, number))
    return float(np.quantile(rule(drawn).max(axis=-1), 1 - level))
