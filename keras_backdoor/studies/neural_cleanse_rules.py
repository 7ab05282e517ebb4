"""Neural Cleanse on the development zoo: where the rule that flags a class was fixed."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

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
        "target": "planted target",
        "source": "source",
        "smallest": "smallest norms (class)",
        "median": "median norm",
        "index": "largest index (class)",
        "index_of_target": "index of the target",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        nets = DevelopmentZoo(self.scale).nets()
        return [
            Cell(f"{name}, seed {seed}", {"net": net, "method": self._method(seed)})
            for name, net in nets.items()
            for seed in SEEDS
        ]

    def _method(self, seed: int) -> NeuralCleanse:
        settings = {} if self.scale == "full" else dict(NeuralCleanse.quick)
        return NeuralCleanse(**{**settings, "runs": 1, "seed": seed})

    def compute(self, cell: Cell, place: Place) -> dict[str, Any]:
        """See `Study.compute`."""
        net: Net = cell.given["net"]
        _, tuning = net.clean_data(place)
        answer = cell.given["method"](obtain(net, place).classifier, clean=tuning.unlabelled())
        norms, index = answer.measures["l1_norm"], answer.measures["anomaly_index"]
        first, best = np.argsort(norms)[:3], int(np.nanargmax(index))
        figures: dict[str, Any] = {
            "smallest": ", ".join(f"{norms[c]:.1f} ({c})" for c in first),
            "median": float(np.median(norms)),
            "index": f"{index[best]:.2f} ({best})",
            "norms": norms,
            "seconds_of_scan": answer.about["seconds"],
        }
        if net.attack is not None:
            figures |= {
                "target": net.attack.target,
                "source": "all" if net.attack.source is None else net.attack.source,
                "index_of_target": float(index[net.attack.target]),
            }
        return figures
