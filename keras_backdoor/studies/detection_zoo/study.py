"""Each look and the whole scan on networks with and without backdoors of many kinds."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._repeated_search import RepeatedSearch
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse, Schedule
from keras_backdoor.defenses.simple_triggers import SimpleTriggers
from keras_backdoor.defenses.staged_scan import NAMES, StagedScan
from keras_backdoor.evaluation import evaluate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain, small
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.detection_zoo.networks import DIGITS, SIGNS, members

LOOKS = tuple(NAMES)
QUICK, SEARCH = "weights and triggers", "search"
"""The two cells of each network."""


class DetectionZoo(Study):
    """Which backdoors do the looks of a scan see, and how often do they see one in a clean network?

    Two halves of 30 clean and 32 backdoored networks each: digits and traffic signs, four
    architectures, one of them with batch normalization, seven families of attacks, with 0.1 to
    10 % of the images poisoned. Limits and rules are chosen on the development half alone; the
    judged half is then scanned once. The clean images of a scan are the tenth of the training
    images that is held out, without labels. All looks are made at all networks; the whole scan
    follows from them, as `StagedScan` combines its looks.
    """

    title: ClassVar[str] = "Scans of networks with and without backdoors"
    paper: ClassVar[str] = "none: made for this project; the looks name theirs"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "attack": "attack",
        "clean_accuracy": "accuracy %",
        "attack_success_rate": "attack %",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        scan, cells = self._scan(), []
        assert scan.search is not None
        parts: dict[str, dict[str, Any]] = {
            QUICK: {"weights": scan.weights, "triggers": scan.triggers},
            SEARCH: {"search": RepeatedSearch.like(scan.search)},
        }
        for part, looks in parts.items():
            for name, member in members().items():
                net = member.net if self.scale == "full" else small(member.net)
                group = f"{member.half}, {member.family}"
                cells.append(Cell(f"{name}, {part}", {"net": net, **looks}, group=group))
        return cells

    def _scan(self) -> StagedScan:
        if self.scale == "full":
            return StagedScan()
        short = Schedule(steps=8, starts=1)
        return StagedScan(
            triggers=SimpleTriggers(images=10),
            search=NeuralCleanse(runs=1, images=60, schedule=short),
        )

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net = cell.given["net"]
        looks = {name: look for name, look in cell.given.items() if name in LOOKS}
        model = obtain(net, workspace).classifier
        figures: dict[str, Any] = {"model_sha256": model.sha256()}
        if "weights" in looks:
            figures |= self._measured(net, model, workspace)
        clean = net.clean_data(workspace)[1].unlabelled()
        return figures | {name: _figures(look(model, clean=clean)) for name, look in looks.items()}

    def _measured(self, net: Net, model: Classifier, workspace: Workspace) -> dict[str, Any]:
        """The accuracy of a network and the success of its attack."""
        test = net.open(workspace, "test")
        test = test if self.scale == "full" else test.take(300, seed=0)
        attack = net.attack
        if attack is None:
            return {"attack": "none", "clean_accuracy": evaluate(model, test).clean_accuracy}
        measured = evaluate(
            model, test, trigger=attack.stamp, target=attack.target, source=attack.source
        )
        source = "all" if attack.source is None else attack.source
        return {
            "attack": f"{type(attack).__name__} {attack.stamp!r} ({source} -> {attack.target})",
            "target": attack.target,
            "clean_accuracy": measured.clean_accuracy,
            "attack_success_rate": measured.attack_success_rate,
        }


def _figures(answer: FlaggedClasses) -> dict[str, Any]:
    """What a look says, with its measurements by class."""
    one = {n: m for n, m in answer.measures.items() if m.ndim == 1}
    return {
        "scores": _rounded(answer.scores),
        "flagged": np.flatnonzero(answer.flagged).tolist(),
        "suspects": np.flatnonzero(answer.suspects).tolist(),
        "triggers": sorted(answer.triggers),
        "verdict": answer.verdict,
        "inconclusive": answer.inconclusive,
        "seconds": answer.about["seconds"],
        "measures": {name: _rounded(values) for name, values in one.items()},
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, with None for what is unknown or infinite."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
