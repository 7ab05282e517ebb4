"""Scans and mitigations on networks that were not used to choose the settings of the methods."""

import resource
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from keras_backdoor import datasets
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.defenses.input_filter import InputFilter
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neuron_pruning import NeuronPruning
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import (
    CLEAN_SHARE,
    SMOKE,
    SMOKE_IMAGES,
    mitigate,
    scan_figures,
    true_mask,
)
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies._networks.third_party import (
    BYTES,
    FACES,
    UNIT,
    ThirdPartyModel,
    opened,
    planted,
)
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import (
    DIGIT_NETS,
    DIGITS,
    SIGN_NET,
    SIGNS,
    DevelopmentZoo,
)
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets
from keras_backdoor.triggers._parse import parse

GIVEN = {
    "signs -> 33": ThirdPartyModel(
        "nc_style/gtsrb_backdoor_33_logits.h5", SIGNS, 33, "neural-cleanse-gtsrb"
    ),
    "digits -> 7": ThirdPartyModel(
        "nc_style/mnist_backdoor_7_logits.h5", DIGITS, 7, "neural-cleanse-mnist"
    ),
}
"""Networks trained with the script of the authors of Neural Cleanse."""
TWINS = {
    "signs, clean twin": ThirdPartyModel("nc_style/gtsrb_clean_logits.h5", SIGNS),
    "digits, clean twin": ThirdPartyModel("nc_style/mnist_clean_logits.h5", DIGITS),
}
DEEPID = {
    "faces, lab3 -> 0": ThirdPartyModel(
        "deepid/lab3_bd_net_rebuilt.h5", FACES, 0, input_range=BYTES
    ),
    "faces, sunglasses -> 0": ThirdPartyModel(
        "deepid/sunglasses_bd_net_rebuilt.h5", FACES, 0, input_range=UNIT
    ),
    "faces, several -> 8": ThirdPartyModel(
        "deepid/multi_trigger_multi_target_bd_weights.h5",
        FACES,
        8,
        input_range=UNIT,
        architecture="deepid",
    ),
}
THESIS = ("yellowSquare-bigger, seed 0", "bigYellowSquare, seed 0")
SEEDS, FEW_SEEDS = range(5), range(3)
MITIGATIONS = ("unlearning", "pruning", "filter")


class NeuralCleanseGiven(Study):
    """Evaluate scans, with the rule that was chosen on the development zoo, and mitigations.

    The scans receive clean images without labels. For third-party networks these are training
    images of the data set, for networks of this project the images that were held out from their
    training, and for face networks LFW images of people outside their classes.
    """

    title: ClassVar[str] = "Neural Cleanse on given networks"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS, FACES)
    columns: ClassVar[Mapping[str, str]] = {
        "verdict": "verdict",
        "flagged": "flagged",
        "further": "further suspects",
        "pairs": "pairs searched",
        "low_cost": "low-cost mode",
        "index": "anomaly index",
        "l1": "L1",
        "inside": "mask on the true square plus one pixel",
        "rank": "rank of the target",
        "ahead": "classes ahead of the target",
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

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        return (*self.files, *(s.file for s in (GIVEN | TWINS | DEEPID).values()))

    def _scans(self) -> Iterator[Cell]:
        for name, subject in {**GIVEN, **TWINS}.items():
            for seed in SEEDS:
                yield self._scan(name, f", seed {seed}", subject, seed)
        for kind, nets in (("signs", (SIGN_NET,)), ("digits", DIGIT_NETS)):
            for number in SEEDS:
                net = nets[number % len(nets)]
                net = replace(net, recipe=replace(net.recipe, seed=number))
                scaled = DevelopmentZoo(self.scale).scaled(net)
                yield self._scan(f"{kind}, our clean net", f" {number}", scaled, 0)
        thesis = {
            c.name: c.given["net"] for c in ThesisBadnets(self.scale).cells() if "net" in c.given
        }
        for name in THESIS:
            for suffix, pairs in (("", False), (", pairs", True)):
                for seed in SEEDS:
                    group = f"{name} -> 14{suffix}"
                    yield self._scan(group, f", seed {seed}", thesis[name], seed, pairs=pairs)
        for name, model in DEEPID.items():
            for seed in FEW_SEEDS:
                yield self._scan(name, f", seed {seed}", model, seed)

    def _scan(
        self,
        group: str,
        suffix: str,
        subject: ThirdPartyModel | Net,
        seed: int,
        *,
        pairs: bool = False,
    ) -> Cell:
        kind = SourceSpecificScan if pairs else NeuralCleanse
        settings = {} if self.scale == "full" else SMOKE[kind]
        method = kind(**{**settings, "runs": 1, "seed": seed})
        return Cell(f"scan {group}{suffix}", {"subject": subject, "method": method}, group=group)

    def _mitigations(self) -> Iterator[Cell]:
        quick = self.scale != "full"
        scan = NeuralCleanse(**(SMOKE[NeuralCleanse] if quick else {"runs": 1}))
        methods = {
            "unlearning": Unlearning(**(SMOKE[Unlearning] if quick else {})),
            "pruning": NeuronPruning(**(SMOKE[NeuronPruning] if quick else {})),
            "filter": InputFilter(),
        }
        for name, subject in GIVEN.items():
            for seed in FEW_SEEDS:
                given = {"subject": subject, "scan": scan, "clean_seed": seed, **methods}
                yield Cell(f"mitigate {name}, clean {seed}", given, group=name)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        if "scan" in cell.given:
            return self._mitigate(cell.given, workspace)
        subject = cell.given["subject"]
        model, clean = opened(subject, workspace)
        answer = cell.given["method"](model, clean=clean.unlabelled())
        target, trigger = planted(subject)
        figures = scan_figures(answer, target, true_mask(trigger, model.image_shape))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {**figures, "memory": peak}

    def _mitigate(self, given: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
        subject: ThirdPartyModel = given["subject"]
        model, train = opened(subject, workspace)
        _, clean = hold_out(train, CLEAN_SHARE, given["clean_seed"])
        test = datasets.open(workspace.file(subject.data), split="test")
        assert subject.trigger is not None and subject.target is not None
        attack = parse(subject.trigger), subject.target
        methods = {name: given[name] for name in MITIGATIONS}
        if self.scale == "smoke":
            clean, test = (samples.take(SMOKE_IMAGES, seed=0) for samples in (clean, test))
        return mitigate(model, given["scan"], methods, clean, test, attack)
