"""Neural Cleanse on the development zoo, on which the rule for flagging a class was chosen."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.scan import InversionScan
from keras_backdoor.defenses.neural_cleanse.verdict import Run
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan, all_pairs
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import SMOKE, classes
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import (
    DIGITS,
    LATER,
    SIGNS,
    STRONG_ATTACKS,
    DevelopmentZoo,
)

SEEDS = {"signs": 1, "digits": 2}
"""Number of scans per network, by data set; a scan of a traffic sign network takes a minute."""
PAIRS = {"signs": (5,), "digits": (0, 6, 7)}
"""Numbers of the backdoored networks that are also scanned by pairs of classes.

All but one of their attacks are source-specific.
"""
CLEAN_PAIRS = {"signs": 1, "digits": 4}
"""Number of clean networks that are also scanned by pairs of classes."""
FIRST = 3
"""Number of smallest norms that are shown."""


class NeuralCleanseRules(Study):
    """Measure the norms of the recovered triggers on networks of the development zoo.

    The clean images are the tuning set of each network, without labels. The rule for flagging a
    class was chosen on these results. It is evaluated on other networks.
    """

    title: ClassVar[str] = "Neural Cleanse on the development zoo"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019 (the method)"
    version: ClassVar[int] = 2
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "target": "target",
        "source": "source",
        "smallest": "smallest norms (class)",
        "ratio": "smallest / median",
        "index": "largest index (class)",
        "paper": "flagged by the paper's rule",
        "ours": "flagged by ours",
        "further": "further suspects",
        "verdict": "verdict",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        zoo = DevelopmentZoo(self.scale).nets()
        nets = {name: net for name, net in zoo.items() if not name.startswith(LATER)}
        cells = [
            self._cell(name, f", seed {seed}", net, self._method(NeuralCleanse, seed))
            for seed in range(max(SEEDS.values()))
            for name, net in nets.items()
            if seed < SEEDS[_data_of(net)]
        ]
        names = [f"{kind}, backdoored {n}" for kind, numbers in PAIRS.items() for n in numbers]
        names += [
            f"{kind}, clean {n}" for kind, number in CLEAN_PAIRS.items() for n in range(number)
        ]
        pairs = self._method(SourceSpecificScan, 0)
        return [*cells, *(self._cell(n, ", pairs", nets[n], pairs) for n in names if n in nets)]

    def _method(self, kind: type[InversionScan], seed: int) -> InversionScan:
        quick = {} if self.scale == "full" else SMOKE[kind]
        return kind(**{**quick, "runs": 1, "seed": seed})

    def _cell(self, name: str, suffix: str, net: Net, method: InversionScan) -> Cell:
        if net.attack is None:
            kind = "clean"
        else:
            kind = "all classes to one" if net.attack.source is None else "one class to one"
        strong = net.attack and net.attack.trigger in {a.trigger for a in STRONG_ATTACKS}
        longer = ", trained longer" if strong else ""
        pairs = ", searched by pairs" if isinstance(method, SourceSpecificScan) else ""
        group = f"{_data_of(net)}, {kind}{longer}{pairs}"
        return Cell(name + suffix, {"net": net, "method": method}, group=group)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """Return the norms of a scan; `derive` applies the rules to them. See `Study.compute`."""
        net: Net = cell.given["net"]
        _, tuning = net.clean_data(workspace)
        model = obtain(net, workspace).classifier
        answer = cell.given["method"](model, clean=tuning.unlabelled())
        figures = {"norms": answer.measures["l1_norm"], "seconds_of_scan": answer.about["seconds"]}
        if "pair_norms" in answer.measures:
            norms = answer.measures["pair_norms"]
            known = np.argwhere(~np.isnan(norms))
            figures["pairs"] = [[int(s), int(t), float(norms[s, t])] for s, t in known]
            all_norms = [[norm for *_, norm in figures["pairs"]]]
            figures["reference_norms"] = answer.about.get("reference_norms", all_norms)[0]
        if net.attack is None:
            return figures
        source = "all" if net.attack.source is None else net.attack.source
        return {**figures, "target": net.attack.target, "source": source}

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:
        """Add the verdicts of the rule of the paper and of the rule of this project."""
        for result in figures.values():
            norms, runs = _numbers(result["norms"]), [_run(result)]
            kind = SourceSpecificScan if "pairs" in result else NeuralCleanse
            ours = kind().judge(runs, len(norms))
            paper = kind(rule="paper").judge(runs, len(norms))
            first = np.argsort(norms)[:FIRST]
            result |= {
                "smallest": [_of_class(c, norms) for c in first],
                "ratio": float(norms[first[0]] / ours.about["median_norm"]),
                "index": _largest(ours.scores),
                "paper": classes(paper.flagged),
                "ours": classes(ours.flagged),
                "further": classes(ours.suspects),
                "verdict": ours.verdict,
            }


def _data_of(net: Net) -> str:
    """Return signs or digits."""
    return "signs" if net.data == SIGNS else "digits"


def _run(figures: dict[str, Any]) -> Run:
    """Reconstruct the run of a scan from its results."""
    norms = _numbers(figures["norms"])
    if "pairs" not in figures:
        return Run.of_norms(norms)
    reference = _numbers(figures["reference_norms"])
    known = {(s, t): np.inf if n is None else n for s, t, n in figures["pairs"]}
    if len(reference) == len(known):
        sources, targets = np.array(list(known)).T
    else:
        sources, targets = all_pairs(len(norms))
    norms = np.array([known.get(pair, np.nan) for pair in zip(sources, targets, strict=True)])
    return Run.of_norms(norms, targets, sources, np.isin(norms, reference))


def _of_class(number: int, values: np.ndarray) -> dict[str, Any]:
    value = float(values[number])
    return {"class": int(number), "value": value if np.isfinite(value) else None}


def _largest(index: np.ndarray) -> dict[str, Any] | None:
    return None if np.isnan(index).all() else _of_class(int(np.nanargmax(index)), index)


def _numbers(values: list[float | None]) -> np.ndarray:
    """Convert norms from JSON to an array; None stands for infinity."""
    return np.array([np.inf if v is None else v for v in values])
