"""Spectral signatures: outlier scores of the features of each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.stats import chi2

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.defenses import _art
from keras_backdoor.defenses._class_features import ClassFeatures, class_features
from keras_backdoor.defenses._clusters import reduced
from keras_backdoor.defenses.base import Defense, Evidence, Need
from keras_backdoor.errors import BadInput

Score = Literal["whitened", "centered", "uncentered", "per-class"]
SCORES = ("whitened", "centered", "uncentered", "per-class")
QUANTILE = 0.9999
"""The quantile of the chi-squared distribution that is the unit of the whitened score."""


def centered_scores(features: np.ndarray) -> np.ndarray:
    """The spectral signatures of Tran, Li and Madry, 2018, algorithm 1.

    The score of an image is (v · (r - mean))², with its features r and the first right singular
    vector v of the centered features.

    Args:
        features: (m, d) features of the images of one class.

    Returns:
        (m,) scores.

    >>> centered_scores(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.1]])).round(2).tolist()
    [1.0, 1.0, 0.0]
    """
    centered = features - features.mean(axis=0)
    _, _, rows = np.linalg.svd(centered, full_matrices=False)
    scores: np.ndarray = (centered @ rows[0]) ** 2
    return scores


def whitened_distances(features: np.ndarray, components: int = 10) -> np.ndarray:
    """Robust squared distances from the center of a class, in units of a limit.

    The features are projected on their first principal components. With the median m_j and the
    median absolute deviation s_j of component j, scaled to the standard deviation of a normal
    distribution, the distance is sum_j ((z_j - m_j) / s_j)². It is divided by the quantile 0.9999
    of the chi-squared distribution, so that hardly any image of a normally distributed class is
    above 1. Unlike the variance, medians are not moved by a minority of poisoned images.

    Args:
        features: (m, d) features of the images of one class.
        components: the largest number of components.

    Returns:
        (m,) distances.
    """
    points = reduced(features, components, "pca")
    center = np.median(points, axis=0)
    spread = np.median(np.abs(points - center), axis=0) / 0.6745
    spread = np.maximum(spread, 1e-3 * points.std(axis=0))
    squared = (((points - center) / spread) ** 2).sum(axis=1)
    distances: np.ndarray = squared / chi2.ppf(QUANTILE, points.shape[1])
    return distances


@dataclass(frozen=True)
class SpectralSignatures(Defense[FlaggedSamples]):
    """Score how far the features of each training image are from those of its class.

    Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018: poisoned images shift
    the mean of the features of their class, and this shift shows in the first singular vector. The
    paper removes the images with the highest scores of every class, also of those that are not
    poisoned. This package adds a robust score that first decides whether a class is poisoned.

    Args:
        layer: the path of the layer. By default the last hidden dense layer, or the layer
            before the last one if another kind of layer lies between.
        score: `whitened` is the robust distance of this package, see `whitened_distances`;
            `centered` the score of the paper, see `centered_scores`; `uncentered` that of ART,
            which projects the features without subtracting their mean; `per-class` that of ART 1.5
            to 1.7, which has one score for all images of a class and flags everything.
        epsilon: the expected share of poison in a class. `multiplier * epsilon` of every class is
            flagged by all scores except `whitened`.
        multiplier: see `epsilon`.
        components: the number of components of the whitened score.
        limit: the whitened distance above which an image is flagged in a poisoned class.
        share: a class is poisoned if more than this share of its images is above `limit`, and
            `contrast` times as many as in the median class.
        contrast: see `share`.

    Notes:
        The score of the paper is (v · (r - mean))². ART projects r, which turns the ranking around
        where the mean is far from the origin (`tests/test_art.py`).
    """

    layer: str | None = None
    score: Score = "whitened"
    epsilon: float = 0.05
    multiplier: float = 1.5
    components: int = 10
    limit: float = 2.0
    share: float = 0.1
    contrast: float = 5.0

    needs: ClassVar[tuple[Need, ...]] = (Need("train", labelled=True),)
    commands: ClassVar[tuple[str, ...]] = ("audit",)
    baseline: ClassVar[bool] = True
    paper: ClassVar[str] = "Tran, Li and Madry, Spectral Signatures, NeurIPS 2018"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"score": "centered"},
        "art": {"score": "uncentered"},
        "thesis": {"score": "per-class"},
    }
    caveats: ClassVar[tuple[str, ...]] = (
        "Poison that is most of its class, or a small share of it, is missed.",
    )

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise BadInput(f"score must be one of {', '.join(SCORES)}. Received: {self.score}")
        if not 0 < self.epsilon < 1 or self.multiplier <= 0 or self.components < 1:
            raise BadInput(
                "epsilon must lie between 0 and 1, multiplier must be above 0 and components 1 or "
                f"more. Received: epsilon={self.epsilon}, multiplier={self.multiplier}, "
                f"components={self.components}"
            )

    def run(self, evidence: Evidence) -> FlaggedSamples:
        """See `Method.run`."""
        data = class_features(evidence, self.layer)
        scores = np.full(len(data.labels), np.nan)
        for label, own in data.map(self._scores).items():
            scores[data.rows(label)] = own
        decide = self._outliers if self.score == "whitened" else self._top
        flagged, groups = decide(data, scores)
        notes, reason = data.notes()
        return FlaggedSamples(
            scores=scores,
            flagged=flagged,
            groups={str(c): group for c, group in groups.items()},
            group_of=data.labels.astype(str),
            embedding=data.embedding(data.map(lambda f: reduced(f, 2, "pca"))),
            summary={"layer": data.layer, **notes},
            inconclusive="" if flagged.any() else reason,
        )

    def _scores(self, features: np.ndarray) -> np.ndarray:
        if self.score == "whitened":
            return whitened_distances(features, self.components)
        if self.score == "centered":
            return centered_scores(features)
        scores = _art.uncentered_scores(features)
        if self.score == "per-class":
            return np.full(len(scores), np.linalg.norm(scores))
        return scores

    def _top(self, data: ClassFeatures, scores: np.ndarray) -> tuple[np.ndarray, dict[int, Group]]:
        """Flag the images of every class whose score reaches the quantile of the paper."""
        flagged, groups = np.zeros(len(scores), bool), {}
        for label in data.examined:
            own = scores[data.rows(label)]
            cutoff = np.quantile(own, max(0.0, 1 - self.multiplier * self.epsilon))
            flagged[data.rows(label)] = own >= cutoff
            groups[label] = Group(float(own.max()), True, {"cutoff": float(cutoff)})
        return flagged, groups

    def _outliers(
        self, data: ClassFeatures, scores: np.ndarray
    ) -> tuple[np.ndarray, dict[int, Group]]:
        """Flag the outliers of the classes that have unusually many."""
        shares = {c: float((scores[data.rows(c)] > self.limit).mean()) for c in data.examined}
        usual = float(np.median(list(shares.values()))) if shares else 0.0
        flagged, groups = np.zeros(len(scores), bool), {}
        for label, share in shares.items():
            poisoned = share > self.share and share > self.contrast * usual
            rows = data.rows(label)
            flagged[rows] = poisoned & (scores[rows] > 1.0)
            groups[label] = Group(share, poisoned, {"above the limit": share})
        return flagged, groups
