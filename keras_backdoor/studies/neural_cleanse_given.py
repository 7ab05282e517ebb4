"""Neural Cleanse on networks that had no part in its making: scans and mitigations."""

import resource
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import binary_dilation

from keras_backdoor import datasets
from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.input_filter import InputFilter
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neuron_pruning import NeuronPruning
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.metrics import Rate
from keras_backdoor.samples import Samples
from keras_backdoor.studies._nets import Net, obtain
from keras_backdoor.studies._place import Place
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGIT_NETS, DIGITS, SIGN_NET, SIGNS
from keras_backdoor.studies.thesis_badnets import ThesisBadnets
from keras_backdoor.triggers._parse import parse

FACES = "lfw90_min20.zip"
GIVEN: dict[str, tuple[str, str, int, str]] = {
    "signs -> 33": ("nc_style/gtsrb_backdoor_33_logits.h5", SIGNS, 33, "neural-cleanse-gtsrb"),
    "digits -> 7": ("nc_style/mnist_backdoor_7_logits.h5", DIGITS, 7, "neural-cleanse-mnist"),
}
"""Networks of the authors' script: file, data, target, trigger."""
TWINS = {
    "signs, clean twin": ("nc_style/gtsrb_clean_logits.h5", SIGNS),
    "digits, clean twin": ("nc_style/mnist_clean_logits.h5", DIGITS),
}
DEEPID = {
    "faces, lab3 -> 0": ("deepid/lab3_bd_net_rebuilt.h5", (0.0, 255.0), 0),
    "faces, sunglasses -> 0": ("deepid/sunglasses_bd_net_rebuilt.h5", (0.0, 1.0), 0),
    "faces, several -> 8": ("deepid/multi_trigger_multi_target_bd_weights.h5", (0.0, 1.0), 8),
}
THESIS = ("yellowSquare-bigger, seed 0", "bigYellowSquare, seed 0")
SEEDS, FEW_SEEDS = range(5), range(3)
MITIGATIONS = ("unlearning", "pruning", "filter")
SHARE = 0.1
"""Share of the training images, by track, that the mitigations are given."""


class NeuralCleanseGiven(Study):
    """Scans with the rule that was fixed on the development zoo, and what follows a scan.

    The clean images of a scan are training images without labels (faces: LFW, whose people are
    not the network's classes).
    """

    title: ClassVar[str] = "Neural Cleanse on given networks"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    unfinished: ClassVar[str] = "being measured"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS, FACES)
    columns: ClassVar[Mapping[str, str]] = {
        "flagged": "flagged",
        "further": "further suspects",
        "index": "anomaly index",
        "l1": "L1",
        "inside": "mask on the true square",
        "rank": "rank of the target",
        "attack_before": "attack before",
        "accuracy_before": "clean accuracy before",
        "attack_unlearning": "attack, unlearned",
        "accuracy_unlearning": "clean accuracy, unlearned",
        "attack_pruning": "attack, neurons pruned",
        "accuracy_pruning": "clean accuracy, neurons pruned",
        "attack_filter": "attack, filtered",
        "rejected_stamped": "triggered images rejected",
        "rejected_clean": "clean images rejected",
        "rejected_target": "clean images of the target class rejected",
        "seconds_of_scan": "seconds",
        "memory": "memory, MB",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [*self._scans(), *self._mitigations()]

    def _scans(self) -> Iterator[Cell]:
        for name, (file, data, target, trigger) in GIVEN.items():
            for seed in SEEDS:
                given = {"file": file, "data": data, "target": target, "trigger": trigger}
                yield self._scan(f"scan {name}, seed {seed}", given, seed)
        for name, (file, data) in TWINS.items():
            for seed in SEEDS:
                yield self._scan(f"scan {name}, seed {seed}", {"file": file, "data": data}, seed)
        for kind, nets in (("signs", (SIGN_NET,)), ("digits", DIGIT_NETS)):
            for number in SEEDS:
                net = nets[number % len(nets)]
                net = replace(net, recipe=replace(net.recipe, seed=number))
                yield self._scan(f"scan {kind}, our clean net {number}", {"net": net}, 0)
        thesis = {c.name: c.given["net"] for c in ThesisBadnets().cells() if "net" in c.given}
        for name in THESIS:
            for seed in SEEDS:
                given = {"net": thesis[name], "target": 14, "trigger": thesis[name].attack.trigger}
                yield self._scan(f"scan {name} -> 14, seed {seed}", given, seed)
        for name, (file, bounds, target) in DEEPID.items():
            for seed in FEW_SEEDS:
                given = {"file": file, "data": FACES, "range": list(bounds), "target": target}
                yield self._scan(f"scan {name}, seed {seed}", given, seed)

    def _scan(self, name: str, given: dict[str, Any], seed: int) -> Cell:
        settings = {} if self.scale == "full" else dict(NeuralCleanse.quick)
        return Cell(
            name, {**given, "method": NeuralCleanse(**{**settings, "runs": 1, "seed": seed})}
        )

    def _mitigations(self) -> Iterator[Cell]:
        quick = self.scale != "full"
        scan = NeuralCleanse(**(NeuralCleanse.quick if quick else {"runs": 1}))
        methods = {"unlearning": Unlearning(), "pruning": NeuronPruning(), "filter": InputFilter()}
        for name, (file, data, target, trigger) in GIVEN.items():
            given = {"file": file, "data": data, "target": target, "trigger": trigger}
            for seed in FEW_SEEDS:
                subject = {**given, "scan": scan, "clean_seed": seed}
                yield Cell(f"mitigate {name}, clean {seed}", {**subject, **methods})

    def compute(self, cell: Cell, place: Place) -> dict[str, Any]:
        """See `Study.compute`."""
        if "scan" in cell.given:
            return self._mitigate(cell.given, place)
        model, clean = self._subject(cell.given, place)
        answer = cell.given["method"](model, clean=clean.unlabelled())
        figures = scan_figures(answer, cell.given.get("target"), _true_mask(cell.given, model))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {**figures, "memory": peak}

    def _subject(self, given: Mapping[str, Any], place: Place) -> tuple[Classifier, Samples]:
        """The network and clean images."""
        if "net" in given:
            net: Net = given["net"]
            return obtain(net, place).classifier, net.clean_data(place)[1]
        path = place.file(given["file"])
        if given["data"] == FACES:
            architecture = "deepid" if "weights" in given["file"] else None
            model = load_model(path, architecture=architecture, input_range=tuple(given["range"]))
            return model, datasets.open(place.file(FACES), size=(55, 47))
        clean = datasets.open(place.file(given["data"]), split="train")
        return load_model(path).with_range(clean), clean

    def _mitigate(self, given: Mapping[str, Any], place: Place) -> dict[str, Any]:
        model, train = self._subject(given, place)
        _, clean = train.split(SHARE, seed=given["clean_seed"], by_track=train.track is not None)
        clean = clean.in_memory()
        found = given["scan"](model, clean=clean.unlabelled())
        test = datasets.open(place.file(given["data"]), split="test")

        def measured(answer: RepairedModel | None = None) -> Evaluation:
            tested = model
            if answer is not None:
                tested = Classifier(answer.model, answer.input_range, answer.reject_class)
            return evaluate(tested, test, trigger=parse(given["trigger"]), target=given["target"])

        made = {n: given[n](model, clean=clean, found=found) for n in MITIGATIONS}
        return mitigation_figures(
            measured(), {name: measured(answer) for name, answer in made.items()}, given["target"]
        )


def scan_figures(
    answer: FlaggedClasses, target: int | None, mask: np.ndarray | None
) -> dict[str, Any]:
    """What a scan says: flagged classes, and index, norm, rank and mask of the target."""
    norms, index = answer.measures["l1_norm"], answer.measures["anomaly_index"]
    shown = int(np.argmin(np.nan_to_num(norms, nan=np.inf))) if target is None else target
    examined = bool(np.isfinite(norms[shown]))
    figures: dict[str, Any] = {
        "flagged": listed(answer.flagged),
        "further": "none" if answer.further is None else listed(answer.further),
        "verdict": answer.verdict,
        "index": float(index[shown]),
        "l1": float(norms[shown]),
        "rank": 1 + int(np.sum(norms < norms[shown])) if examined else None,
        "smallest": [int(c) for c in np.argsort(norms)[:8]],
        "smallest_l1": [float(norms[c]) for c in np.argsort(norms)[:8]],
        "seconds_of_scan": answer.about["seconds"],
    }
    if mask is not None and shown in answer.triggers:
        found = answer.triggers[shown].mask[..., 0]
        figures["inside"] = float(found[mask].sum() / found.sum())
    return figures


def mitigation_figures(
    before: Evaluation, after: Mapping[str, Evaluation], target: int
) -> dict[str, Any]:
    """Attack and accuracy before and after each mitigation; of the filter what it rejects."""
    figures: dict[str, Any] = {
        "attack_before": before.attack_success_rate,
        "accuracy_before": before.clean_accuracy,
    }
    for name, found in after.items():
        figures[f"attack_{name}"] = found.attack_success_rate
        figures[f"accuracy_{name}"] = found.clean_accuracy
    row, guard = after["filter"].confusion[target], after["filter"]
    return figures | {
        "rejected_stamped": guard.rejected_stamped,
        "rejected_clean": guard.rejected_clean,
        "rejected_target": Rate(int(row[-1]), int(row.sum())),
    }


def _true_mask(given: Mapping[str, Any], model: Classifier) -> np.ndarray | None:
    """The pixels of the planted trigger and their neighbours, or None."""
    if "trigger" not in given:
        return None
    height, width, _ = model.image_shape
    mask = parse(given["trigger"]).stamp_for(height, width).mask[..., 0] > 0  # type: ignore[attr-defined]
    grown: np.ndarray = binary_dilation(mask, np.ones((3, 3)))
    return grown
