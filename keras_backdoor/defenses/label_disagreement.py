"""Label disagreement: training images whose label only the examined network gives."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy.stats import chi2

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.defenses._class_features import ClassFeatures, class_features
from keras_backdoor.defenses._clusters import clustered, grown, reduced
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard
from keras_backdoor.defenses.spectral_signatures import QUANTILE, whitened_distances
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

STEPS = 1500
"""The length of a repair."""
SURE = 0.9
"""The probability from which on the repaired network is sure of another class."""
SHARE, LEAST = 0.005, 5
"""A class is poisoned if the repaired network is sure of another class for more than this share of
its images, and for at least this number."""
LARGE = 0.1
"""The flagged share of a class from which on the rest of the class might be the poison."""
MAJORITY = 0.3
"""A class is poisoned if a network that has seen its smaller cluster is sure of other classes for
more than this share of the larger one."""
REPAIRS = 4
"""The largest number of repairs."""
GROWTH, FEW = 1.01, 2
"""The repair is repeated if the number of flagged images grows by more than this factor and this
number."""
TINY = 1e-30
"""The smallest probability that a margin distinguishes."""
COMPONENTS = 10
"""The number of principal components in which poison is told from clean images."""


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


@dataclass(frozen=True)
class LabelDisagreement(Defense[FlaggedSamples]):
    """Flag training images whose label the examined network gives and its repaired copy does not.

    A network that was trained on poison gives a poisoned image its wrong label because of the
    trigger. A copy that ignores small marks (`TriggerAugmentation`) sees what the image shows. So
    the images are poisoned on which the two networks disagree, as in GoodNet; but a repaired
    network also makes errors, mostly on images that it is unsure of. So a class is poisoned if the
    copy is sure of another class for an unusual share of its images. In a poisoned class, all
    images are flagged that the copy does not give the label, and those that the examined network
    does not tell from them in its last hidden layer.

    The repair needs images without poison. They are the core of the training data: of each class
    the half of the images whose features and margins are nearest to the median, see
    `whitened_distances`. Poison that is a minority of its class mostly lies outside. If a class is
    poisoned, its core is drawn anew from images that neither are flagged nor belong to the group of
    the flagged ones by their features, and the repair is repeated until no more images are flagged,
    at most four times in all.

    Poison may also be the majority of its class. If much of a class is flagged, the repair is
    therefore run with the flagged images as the core, to see whether the others are the poison, see
    `turned_around`. If nothing is found, it is run with the smaller of two clusters of each class
    as the core, see `majorities`.

    This is a method of this package. Related work: Northcutt, Jiang and Chuang, Confident Learning,
    JAIR 2021, find wrong labels by the probabilities of a network that was not trained on the
    image; Chen et al., Activation Clustering, 2018, reclassify clusters by a network that was
    trained without them. All limits were chosen on the development zoo (`docs/audits.md`).

    Args:
        layer: the path of the layer whose features are used. By default the last hidden dense
            layer.
        augmentation: the settings of the repair.
        seed: the seed of the repair.

    Notes:
        Images are scored by p(label | image) of the examined network minus that of its copy, in
        -1..1. A class that is poisoned entirely is not seen.
    """

    layer: str | None = None
    augmentation: TriggerAugmentation = field(
        default_factory=lambda: TriggerAugmentation(tuning=Tuning(steps=STEPS, averaged=0.5))
    )
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("train", labelled=True),)
    commands: ClassVar[tuple[str, ...]] = ("audit",)
    default_for: ClassVar[tuple[str, ...]] = ("audit",)
    paper: ClassVar[str] = "none: made for this project; related to Northcutt et al., JAIR 2021"
    quick: ClassVar[dict[str, Any]] = {
        "augmentation": TriggerAugmentation(**TriggerAugmentation.quick)
    }
    caveats: ClassVar[tuple[str, ...]] = (
        "A trigger that survives the repair by random triggers is not seen.",
    )

    def run(self, evidence: Evidence) -> FlaggedSamples:
        """See `Method.run`."""
        check_no_guard(evidence.model)
        data = class_features(evidence, self.layer)
        if not data.examined:
            return _nothing(data)
        before = self._opinions(evidence, "examined", evidence.model)
        core = central(data, before.margin)
        found, repairs = self._found(evidence, data, before, core, 0), 1
        if found.poisoned:
            found, repairs = self._turned(evidence, data, before, core, found)
        else:
            rest = minor(data)
            other, repairs = self._found(evidence, data, before, rest, 1), 2
            other = majorities(other, rest, data)
            found = other if other.poisoned else found
        found, repairs = self._settled(evidence, data, before, core, found, repairs)
        scores = before.of_label - found.after.of_label
        scores[np.isin(data.labels, list(data.skipped))] = np.nan
        notes, reason = data.notes()
        return FlaggedSamples(
            scores=scores,
            flagged=found.flagged,
            groups=_groups(data, found),
            group_of=data.labels.astype(str),
            embedding=_embedding(data),
            summary={"repairs": str(repairs), **notes},
            inconclusive="" if found.flagged.any() else reason,
        )

    def _turned(
        self,
        evidence: Evidence,
        data: ClassFeatures,
        before: Opinions,
        core: np.ndarray,
        found: "Found",
    ) -> tuple["Found", int]:
        """Turn around the classes whose rest is the poison; how often the repair ran."""
        large = [c for c in found.poisoned if found.flagged[data.rows(c)].mean() > LARGE]
        if not large:
            return found, 1
        swapped = drawn_anew(core, ~found.flagged, large, data, before.margin)
        other = self._found(evidence, data, before, swapped, 1)
        return turned_around(found, other, large, data), 2

    def _settled(
        self,
        evidence: Evidence,
        data: ClassFeatures,
        before: Opinions,
        core: np.ndarray,
        found: "Found",
        repairs: int,
    ) -> tuple["Found", int]:
        """Repeat the repair until no more images are flagged; how often it ran in all."""
        while found.poisoned and repairs < REPAIRS:
            core = drawn_anew(core, found.flagged, found.poisoned, data, before.margin)
            again = self._found(evidence, data, before, core, repairs)
            repairs += 1
            more = again.flagged.sum() > GROWTH * found.flagged.sum() + FEW
            found = again if again.poisoned else found
            if not more:
                break
        return found, repairs

    def _found(
        self,
        evidence: Evidence,
        data: ClassFeatures,
        before: Opinions,
        core: np.ndarray,
        number: int,
    ) -> "Found":
        """Repair the network with the core, and compare the two networks."""
        method = replace(self.augmentation, seed=self.seed)
        copy = evidence.run(method, clean=evidence.train.subset(core)).classifier
        after = self._opinions(evidence, f"repaired-{number}", copy)
        sure = sure_disagreements(before, after, data.labels)
        poisoned = poisoned_classes(sure, data)
        return Found(after, sure, poisoned, flagged_among(poisoned, after, data))

    def _opinions(self, evidence: Evidence, name: str, model: Classifier) -> Opinions:
        return Opinions(**evidence.part(name, lambda: Opinions.of(model, evidence.train)))


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


def minor(data: ClassFeatures) -> np.ndarray:
    """(n,) bool, the smaller of two clusters of each examined class."""
    core = np.zeros(len(data.labels), bool)
    for label, clusters in data.map(lambda f: clustered(reduced(f, COMPONENTS))).items():
        core[data.rows(label)] = clusters == 1
    return core


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


def _groups(data: ClassFeatures, found: Found) -> dict[str, Group]:
    groups = {}
    for label in data.examined:
        rows, poisoned = data.rows(label), label in found.poisoned
        sure = found.sure[rows]
        figures = {"sure of another class": float(sure.sum())}
        if poisoned:
            counts = np.bincount(found.after.predicted[rows[found.flagged[rows]]], minlength=1)
            figures["most frequent other class"] = float(counts.argmax())
            figures["flagged"] = float(found.flagged[rows].sum())
        groups[str(label)] = Group(float(sure.mean()), poisoned, figures)
    return groups


def _embedding(data: ClassFeatures) -> np.ndarray:
    """(n, 2) the first two whitened principal components of each image within its class."""
    out = np.full((len(data.labels), 2), np.nan)
    for label, points in data.map(lambda features: reduced(features, 2)).items():
        out[data.rows(label), : points.shape[1]] = points
    return out


def _nothing(data: ClassFeatures) -> FlaggedSamples:
    """The answer if no class can be examined."""
    notes, reason = data.notes()
    return FlaggedSamples(
        scores=np.full(len(data.labels), np.nan),
        flagged=np.zeros(len(data.labels), bool),
        group_of=data.labels.astype(str),
        summary=notes,
        inconclusive=reason,
    )
