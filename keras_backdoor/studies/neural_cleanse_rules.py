"""Neural Cleanse on the development zoo: where the rule that flags a class was fixed."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.defenses._outliers import anomaly_index
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.studies._nets import Net, obtain
from keras_backdoor.studies._place import Place
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGNS, DevelopmentZoo

SEEDS = (0, 1)


class NeuralCleanseRules(Study):
    """The norms that a scan finds on networks of the development zoo.

    The clean images are the tuning set of each network, without labels. The rule for flagging a
    class was chosen on these figures; the networks that it is judged by are not among them.
    """

    title: ClassVar[str] = "Neural Cleanse on the development zoo"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019 (the method)"
    unfinished: ClassVar[str] = "being measured"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "target": "target",
        "source": "source",
        "smallest": "smallest norms (class)",
        "ratio": "smallest / median",
        "index": "largest index (class)",
        "paper": "flagged by the paper's rule",
        "ours": "flagged by ours",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        quick = {} if self.scale == "full" else NeuralCleanse.quick
        method = NeuralCleanse(**quick)
        searched = {"schedule": method.schedule, "images": method.images}
        return [
            Cell(f"{name}, seed {seed}", {"net": net, **searched, "seed": seed})
            for name, net in DevelopmentZoo(self.scale).nets().items()
            for seed in SEEDS
        ]

    def compute(self, cell: Cell, place: Place) -> dict[str, Any]:
        """The norms alone: what a rule makes of them is derived from these."""
        net: Net = cell.given["net"]
        _, tuning = net.clean_data(place)
        searched = {name: cell.given[name] for name in ("schedule", "images", "seed")}
        method = NeuralCleanse(runs=1, **searched)
        answer = method(obtain(net, place).classifier, clean=tuning.unlabelled())
        figures = {"norms": answer.measures["l1_norm"], "seconds_of_scan": answer.about["seconds"]}
        if net.attack is None:
            return figures
        source = "all" if net.attack.source is None else net.attack.source
        return {**figures, "target": net.attack.target, "source": source}

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:
        """What the paper's rule and ours say of the norms."""
        for found in figures.values():
            norms = np.array([np.inf if n is None else n for n in found["norms"]])
            index, ours = anomaly_index(norms), NeuralCleanse(runs=1).outliers(norms)
            first, best = np.argsort(norms)[:3], int(np.argmax(index))
            found |= {
                "smallest": ", ".join(f"{norms[c]:.1f} ({c})" for c in first),
                "ratio": float(norms[first[0]] / np.median(norms)),
                "index": f"{index[best]:.2f} ({best})",
                "paper": _classes(index > 2.0),
                "ours": _classes(ours),
            }


def _classes(flagged: np.ndarray) -> str:
    return ", ".join(map(str, np.flatnonzero(flagged))) or "none"
