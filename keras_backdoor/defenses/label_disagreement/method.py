"""Label disagreement: training images whose label only the examined network gives."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.defenses._class_features import ClassFeatures, class_features
from keras_backdoor.defenses._clusters import reduced
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard
from keras_backdoor.defenses.label_disagreement.cores import central, drawn_anew, minor
from keras_backdoor.defenses.label_disagreement.found import Found, majorities, turned_around
from keras_backdoor.defenses.label_disagreement.opinions import Opinions
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.training import Recipe

STEPS = 1500
"""The length of a repair."""
LARGE = 0.1
"""The flagged share of a class from which on the rest of the class might be the poison."""
REPAIRS = 4
"""The largest number of repairs."""
GROWTH, FEW = 1.01, 2
"""The repair is repeated if the number of flagged images grows by more than this factor and this
number."""


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
            layer, or the layer before the last one if another kind of layer lies between.
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
        "augmentation": TriggerAugmentation(
            tuning=Tuning(steps=300, averaged=0.3, recipe=Recipe(learning_rate=1e-2))
        )
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
        search = _Search(evidence, data, replace(self.augmentation, seed=self.seed))
        found = search.settled(search.first())
        scores = search.before.of_label - found.after.of_label
        scores[np.isin(data.labels, list(data.skipped))] = np.nan
        notes, reason = data.notes()
        return FlaggedSamples(
            scores=scores,
            flagged=found.flagged,
            groups=_groups(data, found),
            group_of=data.labels.astype(str),
            embedding=data.embedding(data.map(lambda f: reduced(f, 2))),
            summary={"repairs": str(search.repairs), **notes},
            inconclusive="" if found.flagged.any() else reason,
        )


class _Search:
    """The repairs of one run, each with a core that the last one has improved.

    Attributes:
        before: what the examined network says.
        core: (n,) bool, the images that are taken for clean.
        repairs: how often the network was repaired.
    """

    def __init__(
        self, evidence: Evidence, data: ClassFeatures, method: TriggerAugmentation
    ) -> None:
        self.evidence, self.data, self.method = evidence, data, method
        self.before = self._opinions("examined", evidence.model)
        self.core = central(data, self.before.margin)
        self.repairs = 0

    def first(self) -> Found:
        """What is found if poison is a minority of its class, or else its majority."""
        found = self._found(self.core)
        if not found.poisoned:
            core = minor(self.data)
            other = majorities(self._found(core), core, self.data)
            return other if other.poisoned else found
        rows = self.data.rows
        large = [c for c in found.poisoned if found.flagged[rows(c)].mean() > LARGE]
        if not large:
            return found
        swapped = drawn_anew(self.core, ~found.flagged, large, self.data, self.before.margin)
        return turned_around(found, self._found(swapped), large, self.data)

    def settled(self, found: Found) -> Found:
        """Repeat the repair until no more images are flagged."""
        while found.poisoned and self.repairs < REPAIRS:
            margin = self.before.margin
            self.core = drawn_anew(self.core, found.flagged, found.poisoned, self.data, margin)
            again = self._found(self.core)
            more = again.flagged.sum() > GROWTH * found.flagged.sum() + FEW
            found = again if again.poisoned else found
            if not more:
                break
        return found

    def _found(self, core: np.ndarray) -> Found:
        """Repair the network with a core, and compare the two networks."""
        clean = self.evidence.train.subset(core)
        copy = self.evidence.run(self.method, clean=clean).classifier
        after = self._opinions(f"repaired-{self.repairs}", copy)
        self.repairs += 1
        return Found.by(self.before, after, self.data)

    def _opinions(self, name: str, model: Classifier) -> Opinions:
        train = self.evidence.train
        return Opinions(**self.evidence.part(name, lambda: Opinions.of(model, train)))


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
