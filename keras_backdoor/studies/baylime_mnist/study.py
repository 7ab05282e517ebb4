"""The single-pixel experiment of BayLIME on MNIST, and a trigger of four pixels on signs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import Heatmaps
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import DataAttack
from keras_backdoor.evaluation import Localization, evaluate, evaluate_maps
from keras_backdoor.explanations.baylime import BayLIME, Prior
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.thesis_badnets.study import DATA as SIGNS
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets
from keras_backdoor.training import PRESETS

DATA = "mnist.npz"
SOURCE, TARGET, SHARE = 1, 0, 0.33
PERTURBATIONS = (5, 8, 10, 15, 20, 40)
PRIORS: tuple[Prior, ...] = ("zero", "in", "out")
NETWORKS, DESIGNS = (0, 1, 2), (0, 1, 2, 3, 4)
"""The seeds of the networks and of the designs."""
IMAGES = 100
PUBLISHED: dict[str, tuple[int, ...]] = {
    "zero": (8, 44, 97, 97, 97, 97),
    "in": (0, 0, 0, 1, 96, 97),
    "out": (2, 13, 96, 97, 97, 97),
}
"""Prior -> recovered triggers of 100 images in the notebook, by number of perturbations."""
ATTACK, OWN, SHARED, SIGN = "attack", "own designs", "shared design", "signs"
SIGN_NET = "yellowSquare-bigger, seed 0"


class BayLIMEMNIST(Study):
    """How many perturbations does BayLIME need to recover a trigger of one pixel?

    A notebook poisoned a third of the ones of MNIST with a white pixel and the label 0, and asked
    BayLIME for the segment with the largest coefficient in 100 misclassified test images. All
    images shared one design of perturbations (seed 207), so that its curve is that of one draw.
    """

    title: ClassVar[str] = "BayLIME and a trigger of one pixel"
    paper: ClassVar[str] = "Zhao et al., BayLIME, UAI 2021 (arXiv 2012.03058)"
    files: ClassVar[tuple[str, ...]] = (DATA,)
    columns: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "accuracy %",
        "attack": "attack on the source %",
        "with_trigger": "accuracy with the trigger %",
        "recovered": "recovered, by design",
        "inside": "trigger in the top segment %",
        "iou": "IoU",
    }

    def read(self) -> tuple[str, ...]:
        """See `Study.read`."""
        return (DATA, SIGNS)

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [*self._attacks(), *self._recoveries(), *self._signs()]

    def _attacks(self) -> Iterator[Cell]:
        published = {"clean_accuracy": 97.45, "with_trigger": 22.12}
        for seed in NETWORKS:
            given = {"net": self._net(seed)}
            yield Cell(f"network, seed {seed}", given, published, group=ATTACK)

    def _recoveries(self) -> Iterator[Cell]:
        for seed in NETWORKS:
            for prior in PRIORS:
                for number, published in zip(PERTURBATIONS, PUBLISHED[prior], strict=True):
                    own = BayLIME(perturbations=number, prior=prior)
                    given = {"net": self._net(seed), "method": own, "designs": len(DESIGNS)}
                    name = f"seed {seed}, prior {prior}, {number} perturbations"
                    yield Cell(name, given, {"recovered": published}, group=OWN)
        for prior in PRIORS:
            for number, published in zip(PERTURBATIONS, PUBLISHED[prior], strict=True):
                method = BayLIME.preset("seed000", perturbations=number, prior=prior)
                given = {"net": self._net(0), "method": method, "designs": 1}
                name = f"shared design, prior {prior}, {number} perturbations"
                yield Cell(name, given, {"recovered": published}, group=SHARED)

    def _signs(self) -> Iterator[Cell]:
        cells = {c.name: c for c in ThesisBadnets(self.scale).cells()}
        net = cells[SIGN_NET].given["net"]
        for prior in PRIORS:
            method = BayLIME(perturbations=200, prior=prior)
            yield Cell(f"{SIGN_NET}, prior {prior}", {"net": net, "method": method}, group=SIGN)

    def _net(self, seed: int) -> Net:
        attack = BadNets("mnist-pixel", TARGET, SOURCE, fraction=SHARE, replace=True)
        net = Net(
            DATA, "badnet_mnist", replace(PRESETS["mnist-pixel"], seed=seed), attack, tuning=0.2
        )
        if self.scale == "full":
            return net
        return replace(net, take=1500, recipe=replace(net.recipe, epochs=1))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net: Net = cell.given["net"]
        attack = net.attack
        assert attack is not None
        model = obtain(net, workspace).classifier
        test = net.open(workspace, "test")
        test = test if self.scale == "full" else test.take(400, seed=0)
        if "method" not in cell.given:
            return self._attack(model, test, attack)
        method: BayLIME = cell.given["method"]
        clean, _ = net.clean_data(workspace)
        stamped = test.stamped(attack.stamp)
        number = IMAGES if self.scale == "full" else 4
        if "designs" in cell.given:
            wrong = np.flatnonzero(model.predict(stamped) != test.known_labels)[:number]
            shown = stamped.subset(wrong).in_memory()
            found = [
                self._localized(replace(method, seed=method.seed + d), model, shown, clean, attack)
                for d in range(cell.given["designs"])
            ]
            return {
                "recovered": [100 * float(f.touched) for f, _ in found],
                "converged": [answer.figures["converged"] for _, answer in found],
                "images": len(shown),
            }
        own = test.known_labels == attack.source
        hit = np.flatnonzero(own & (model.predict(stamped) == attack.target))[:number]
        if not len(hit):
            return {"images": 0}
        shown = stamped.subset(hit).in_memory()
        place, _ = self._localized(method, model, shown, clean, attack)
        return {
            "inside": place.inside,
            "touched": place.touched,
            "iou": float(place.overlap.mean()),
            "images": len(hit),
        }

    def _attack(self, model: Classifier, test: Samples, attack: DataAttack) -> dict[str, Any]:
        measured = evaluate(model, test, trigger=attack.stamp, target=attack.target)
        stamped = test.stamped(attack.stamp)
        right = model.predict(stamped) == test.known_labels
        return {
            "clean_accuracy": measured.clean_accuracy,
            "attack": measured.per_class[SOURCE],
            "with_trigger": Rate(int(right.sum()), len(test)),
        }

    def _localized(
        self, method: BayLIME, model: Classifier, shown: Samples, clean: Samples, attack: DataAttack
    ) -> tuple[Localization, Heatmaps]:
        answer = method(model, incoming=shown.unlabelled(), clean=clean)
        support = attack.stamp.support(*shown.image_shape[:2])
        assert support is not None and answer.top is not None
        return evaluate_maps(answer.maps, answer.top, support), answer
