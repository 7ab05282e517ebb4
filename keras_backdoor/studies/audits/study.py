"""Audits of poisoned and clean training data, on networks that the methods were not chosen on."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.activation_clustering import ActivationClustering
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.provenance import Provenance
from keras_backdoor.defenses.retrain import Retrain
from keras_backdoor.defenses.spectral_signatures import SpectralSignatures
from keras_backdoor.defenses.strip import STRIP
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.evaluation import evaluate, evaluate_audit
from keras_backdoor.metrics import Rate, auroc
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies._networks.poisoned_data import poisoned_data
from keras_backdoor.studies._networks.third_party import ThirdPartyModel
from keras_backdoor.studies.audits.cameras import with_cameras
from keras_backdoor.studies.base import Cell, Scale, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGN_NET, SIGNS, DevelopmentZoo
from keras_backdoor.studies.neural_cleanse_given.study import GIVEN
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets
from keras_backdoor.training import Recipe, builder, fit
from keras_backdoor.triggers._parse import parse

OURS, PUBLISHED = "this package", "published methods"
RETRAINED, CAMERAS, ZOO, INCOMING = "retrained", "cameras", "development zoo", "incoming images"
MAJORITY = "poison is most of its class"
METHODS: dict[str, Defense[FlaggedSamples]] = {
    "activation clustering, thesis": ActivationClustering.preset("thesis"),
    "activation clustering, thesis, distance": ActivationClustering.preset("thesis-distance"),
    "activation clustering, relative size": ActivationClustering(decision="relative-size"),
    "activation clustering, silhouette": ActivationClustering(decision="silhouette"),
    "spectral signatures, thesis": SpectralSignatures.preset("thesis"),
    "spectral signatures, ART": SpectralSignatures.preset("art"),
    "spectral signatures, paper": SpectralSignatures.preset("paper"),
    "spectral signatures, whitened": SpectralSignatures(),
}
"""Methods that train nothing."""
RECLASSIFIED = "activation clustering, paper"
COPIED = replace(
    SIGN_NET, attack=BadNets("patch:size=4,row=26,column=26,color=white", 17, count=1800)
)
"""A network with 1,800 poisoned images in a class of 999 clean ones."""
STRIP_IMAGES = 2000
"""The number of test images, clean and triggered, that STRIP is measured on."""


class Audits(Study):
    """Find the poisoned training images of networks, and train the networks again without them.

    The audits get the network and its training data. What they flag is compared with the truth.
    """

    title: ClassVar[str] = "Audits of training data"
    paper: ClassVar[str] = "none: made for this project; the other methods name theirs"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "classes": "flagged classes",
        "removed_poison": "removed poison",
        "removed_clean": "removed clean images",
        "worst_class": "most removed of a class",
        "area": "AUC in the poisoned class",
        "accuracy_before": "accuracy before",
        "accuracy_after": "accuracy after",
        "attack_before": "attack before",
        "attack_after": "attack after",
        "source_after": "attack on the source class after",
        "seconds_of_audit": "seconds",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        cells = (self._ours(), self._published(), self._majority(), self._zoo(), self._incoming())
        return [cell for group in cells for cell in group]

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        return (*self.files, *(m.file for m in GIVEN.values()))

    def _ours(self) -> Iterator[Cell]:
        for name, net in self._subjects().items():
            given = {"net": net, "method": self._audit()}
            yield Cell(f"{name}, audit", given, group=OURS)
        for name, net in self._subjects().items():
            if net.attack is not None and name.endswith("seed 0"):
                given = {"net": net, "method": self._audit(), "retrained": True}
                yield Cell(f"{name}, {RETRAINED}", given, group=RETRAINED)
        for name, net in self._subjects().items():
            if net.attack is not None and name.endswith("seed 0"):
                method = Provenance(audit=self._audit())
                given = {"net": net, "method": method, "cameras": 0, "recipe": self._short()}
                yield Cell(f"{name}, {CAMERAS}", given, group=CAMERAS)

    def _published(self) -> Iterator[Cell]:
        for word, method in METHODS.items():
            for name, net in self._subjects().items():
                if name.endswith("seed 0") or net.attack is None:
                    yield Cell(f"{name}, {word}", {"net": net, "method": method}, group=PUBLISHED)
        for name, net in self._subjects().items():
            if name.endswith("seed 0") or net.attack is None:
                method = ActivationClustering(recipe=net.recipe)
                given = {"net": net, "method": method}
                yield Cell(f"{name}, {RECLASSIFIED}", given, group=PUBLISHED)

    def _majority(self) -> Iterator[Cell]:
        net = DevelopmentZoo(self.scale).scaled(COPIED)
        methods = {"audit": self._audit(), RECLASSIFIED: ActivationClustering(recipe=net.recipe)}
        for word, method in methods.items():
            given = {"net": net, "method": method}
            yield Cell(f"1,800 copies -> 17, {word}", given, group=MAJORITY)

    def _zoo(self) -> Iterator[Cell]:
        cheap = ("spectral signatures, whitened", "activation clustering, silhouette")
        methods = {"audit": self._audit(), **{word: METHODS[word] for word in cheap}}
        for word, method in methods.items():
            for name, net in DevelopmentZoo(self.scale).nets().items():
                yield Cell(f"{name}, {word}", {"net": net, "method": method}, group=ZOO)

    def _incoming(self) -> Iterator[Cell]:
        for name, subject in GIVEN.items():
            yield Cell(f"{name}, STRIP", {"subject": subject, "method": STRIP()}, group=INCOMING)

    def _subjects(self) -> dict[str, Net]:
        """The networks of table 4.1 and the clean one, by name."""
        cells = ThesisBadnets(self.scale).cells()
        chosen = [c for c in cells if c.group in ("table 4.1", "table 3.5")]
        return {c.name: c.given["net"] for c in chosen}

    def _audit(self) -> LabelDisagreement:
        return audit_at(self.scale)

    def _short(self) -> Recipe:
        """The recipe of networks that are trained on images of an odd camera."""
        return replace(
            SIGN_NET.recipe, epochs=SIGN_NET.recipe.epochs if self.scale == "full" else 1
        )

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        method = cell.given["method"]
        if "subject" in cell.given:
            return self._of_incoming(cell.given["subject"], method, workspace)
        net: Net = cell.given["net"]
        train, is_poison = poisoned_data(net, workspace)
        if "cameras" in cell.given:
            train = with_cameras(train, is_poison, cell.given["cameras"])
            model, _ = fit(builder(net.architecture), train, cell.given["recipe"])
        else:
            model = obtain(net, workspace).classifier
        answer = method(model, train=train)
        figures = audit_figures(answer, is_poison, train.known_labels, net)
        if cell.given.get("retrained"):
            figures |= self._retrained(net, model, train, answer, workspace)
        return figures

    def _retrained(
        self,
        net: Net,
        model: Classifier,
        train: Samples,
        answer: FlaggedSamples,
        workspace: Workspace,
    ) -> dict[str, Any]:
        """Train the network again without the flagged images, and evaluate both."""
        test = net.open(workspace, "test")
        if self.scale == "smoke":
            test = test.take(500, seed=0)
        again = Retrain(recipe=net.recipe)(model, train=train, found=answer).classifier
        return {
            key: value
            for when, network in (("before", model), ("after", again))
            for key, value in _attack_figures(network, test, net, when).items()
        }

    def _of_incoming(
        self, subject: ThirdPartyModel, method: STRIP, workspace: Workspace
    ) -> dict[str, Any]:
        """Mix triggered test images, on which the attack works, with clean ones."""
        model, clean = subject.open(workspace), subject.clean(workspace)
        test = datasets.open(workspace.file(subject.data), split="test")
        number = STRIP_IMAGES if self.scale == "full" else 40
        clean = clean.take(min(len(clean), 4 * number), seed=0)
        trigger, target = parse(subject.trigger or ""), subject.target or 0
        shown = test.take(number, seed=0)
        stamped = test.subset(test.known_labels != target).take(number, seed=1).stamped(trigger)
        works = model.predict(stamped) == target
        incoming = shown.concat(stamped.subset(works)).unlabelled()
        answer = method(model, incoming=incoming, clean=clean.unlabelled())
        is_triggered = np.arange(len(incoming)) >= len(shown)
        figures: dict[str, Any] = {
            "area": auroc(answer.scores, is_triggered),
            "limits": answer.figures["limits"],
            "seconds_of_audit": answer.about["seconds"],
        }
        for name, limit in answer.figures["limits"].items():
            rates = evaluate_audit(-answer.scores < limit, is_triggered, None)
            figures[f"found_{name}"] = rates.removed_poison
            figures[f"clean_{name}"] = rates.removed_clean
        return figures


def audit_at(scale: Scale) -> LabelDisagreement:
    """The default audit, which repairs in a few steps at small scale."""
    if scale == "full":
        return LabelDisagreement()
    return LabelDisagreement(augmentation=TriggerAugmentation(tuning=Tuning(steps=5)))


def audit_figures(
    answer: FlaggedSamples, is_poison: np.ndarray, labels: np.ndarray, net: Net
) -> dict[str, Any]:
    """Compare an audit with the truth.

    Args:
        answer: the answer of the audit.
        is_poison: (n,) bool.
        labels: (n,) the labels, of which those of the poison are wrong.
        net: the network.
    """
    rates = evaluate_audit(answer.flagged, is_poison, labels)
    worst = max((r["removed_clean"] for r in rates.per_class.values()), key=_share)
    figures = {
        "groups": [name for name, group in answer.groups.items() if group.flagged],
        "verdict": answer.verdict,
        "removed_poison": rates.removed_poison,
        "removed_clean": rates.removed_clean,
        "worst_class": worst,
        "poison_left": int((is_poison & ~answer.flagged).sum()),
        "repairs": answer.summary.get("repairs", ""),
        "seconds_of_audit": answer.about["seconds"],
    }
    if net.attack is not None:
        own = labels == net.attack.target
        figures["area"] = auroc(answer.scores[own], is_poison[own])
    return figures


def _share(rate: Rate) -> float:
    return float(rate) if rate.of else 0.0


def _attack_figures(model: Classifier, test: Samples, net: Net, when: str) -> dict[str, Any]:
    attack = net.attack
    assert attack is not None
    measured = evaluate(model, test, trigger=attack.stamp, target=attack.target)
    figures: dict[str, Any] = {
        f"accuracy_{when}": measured.clean_accuracy,
        f"attack_{when}": measured.attack_success_rate,
    }
    if attack.source is not None:
        figures[f"source_{when}"] = measured.per_class.get(attack.source)
    return figures
