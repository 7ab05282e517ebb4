"""Each look and the whole scan on networks with and without backdoors of many kinds."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._repeated_search import RepeatedSearch
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.staged_scan import SEARCH, TRIGGERS, WEIGHTS, StagedScan
from keras_backdoor.evaluation import evaluate
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import obtain, small
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.detection_zoo.networks import DIGITS, SIGNS, members

NAMES = {"weights": WEIGHTS, "triggers": TRIGGERS, "search": SEARCH}
LOOKS = tuple(NAMES)
WHOLE = "whole scan"


class DetectionZoo(Study):
    """Which backdoors do the looks of a scan see, and how often do they see one in a clean network?

    Two halves of 30 clean and 32 backdoored networks each: digits and traffic signs, four
    architectures, one of them with batch normalization, seven families of attacks, with 0.1 to
    10 % of the images poisoned. Limits and rules are chosen on the development half alone; the
    judged half is then scanned once. The clean images of a scan are the tenth of the training
    images that is held out, without labels.
    """

    title: ClassVar[str] = "Scans of networks with and without backdoors"
    paper: ClassVar[str] = "none: made for this project; the looks name theirs"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    unfinished: ClassVar[str] = "its cells are computed in several sessions"
    columns: ClassVar[Mapping[str, str]] = {
        "attack": "attack",
        "clean_accuracy": "accuracy %",
        "attack_success_rate": "attack %",
        "verdict": "verdict",
        "flagged": "flagged",
        "target": "target",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        cells = []
        for name, member in members().items():
            net = member.net if self.scale == "full" else small(member.net)
            given = {"net": net, "scan": self._scan()}
            cells.append(Cell(name, given, group=f"{member.half}, {member.family}"))
        return cells

    def _scan(self) -> StagedScan:
        if self.scale == "full":
            return StagedScan()
        return StagedScan(search=NeuralCleanse(**NeuralCleanse.quick))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net, scan = cell.given["net"], cell.given["scan"]
        model = obtain(net, workspace).classifier
        test = net.open(workspace, "test")
        test = test if self.scale == "full" else test.take(300, seed=0)
        clean = net.clean_data(workspace)[1].unlabelled()
        figures: dict[str, Any] = {"model_sha256": model.sha256(), "attack": "none"}
        attack = net.attack
        if attack is None:
            figures["clean_accuracy"] = evaluate(model, test).clean_accuracy
        else:
            measured = evaluate(
                model, test, trigger=attack.stamp, target=attack.target, source=attack.source
            )
            source = "all" if attack.source is None else attack.source
            figures |= {
                "attack": f"{type(attack).__name__} {attack.stamp!r} ({source} -> {attack.target})",
                "target": attack.target,
                "clean_accuracy": measured.clean_accuracy,
                "attack_success_rate": measured.attack_success_rate,
            }
        whole = scan(model, clean=clean)
        search = RepeatedSearch.like(scan.search)
        looks = {"weights": scan.weights, "triggers": scan.triggers, "search": search}
        for name, look in looks.items():
            made = whole.figures["looks"].get(NAMES[name])
            figures[name] = made if made is not None else _figures(look(model, clean=clean))
        figures[WHOLE] = _figures(whole)
        flagged = np.flatnonzero(whole.flagged).tolist()
        return figures | {"verdict": whole.verdict, "flagged": flagged}


def _figures(answer: FlaggedClasses) -> dict[str, Any]:
    """The scores of an answer, its verdict and its measurements by class."""
    one = {n: m for n, m in answer.measures.items() if m.ndim == 1}
    return {
        "scores": _rounded(answer.scores),
        "flagged": np.flatnonzero(answer.flagged).tolist(),
        "verdict": answer.verdict,
        "seconds": answer.about["seconds"],
        "measures": {name: _rounded(values) for name, values in one.items()},
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, with None for what is unknown or infinite."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
