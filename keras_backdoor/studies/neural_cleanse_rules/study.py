"""Neural Cleanse on the development zoo: where the rule that flags a class was fixed."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses.neural_cleanse.by_class import Run
from keras_backdoor.defenses.neural_cleanse.method import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.rows import ANY, all_pairs
from keras_backdoor.defenses.neural_cleanse.verdict import bare_run
from keras_backdoor.studies._engine.workspace import Place
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGNS, DevelopmentZoo

SEEDS = {"signs": 1, "digits": 2}
"""Scans of a network, by its data; a scan of signs takes a minute."""
PAIRS = {"signs": (5,), "digits": (0, 6, 7)}
"""Backdoored networks of each kind that are also scanned by pairs: source-specific, one not."""
CLEAN_PAIRS = {"signs": 1, "digits": 4}
"""How many clean ones are."""
SEARCH = ("schedule", "images")
PAIR_SETTINGS = (
    "schedule", "per_source", "pair_batch", "mode", "quick_steps",
    "candidates", "others", "seed",
)  # fmt: skip


class NeuralCleanseRules(Study):
    """The norms that a scan finds on networks of the development zoo.

    The clean images are the tuning set of each network, without labels. The rule for flagging a
    class was chosen on these figures; the networks that it is judged by are not among them.
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
        quick = {} if self.scale == "full" else NeuralCleanse.quick
        method = NeuralCleanse(**quick)
        searched = {name: getattr(method, name) for name in SEARCH}
        nets = DevelopmentZoo(self.scale).nets()
        plain = [
            Cell(f"{name}, seed {seed}", {"net": net, **searched, "seed": seed})
            for seed in range(max(SEEDS.values()))
            for name, net in nets.items()
            if seed < SEEDS[name.partition(",")[0]]
        ]
        names = [f"{kind}, backdoored {n}" for kind, numbers in PAIRS.items() for n in numbers]
        names += [
            f"{kind}, clean {n}" for kind, number in CLEAN_PAIRS.items() for n in range(number)
        ]
        pairs = {"sources": "each", **{name: getattr(method, name) for name in PAIR_SETTINGS}}
        return [
            *plain,
            *(Cell(f"{n}, pairs", {"net": nets[n], **pairs}) for n in names if n in nets),
        ]

    def compute(self, cell: Cell, place: Place) -> dict[str, Any]:
        """The norms alone: what a rule makes of them is derived from these."""
        settings = dict(cell.given)
        net: Net = settings.pop("net")
        _, tuning = net.clean_data(place)
        method = NeuralCleanse(runs=1, **settings)
        answer = method(obtain(net, place).classifier, clean=tuning.unlabelled())
        figures = {"norms": answer.measures["l1_norm"], "seconds_of_scan": answer.about["seconds"]}
        if "pair_norms" in answer.measures:
            norms = answer.measures["pair_norms"]
            known = np.argwhere(~np.isnan(norms))
            figures["pairs"] = [[int(s), int(t), float(norms[s, t])] for s, t in known]
            yardsticks = answer.about.get("yardsticks", [[norm for *_, norm in figures["pairs"]]])
            figures["yardstick"] = yardsticks[0]
        if net.attack is None:
            return figures
        source = "all" if net.attack.source is None else net.attack.source
        return {**figures, "target": net.attack.target, "source": source}

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:
        """What the paper's rule and ours say of the norms."""
        for found in figures.values():
            norms, runs = _numbers(found["norms"]), [_run(found)]
            ours = NeuralCleanse().judge(runs, len(norms))
            paper = NeuralCleanse(rule="paper").judge(runs, len(norms))
            first = np.argsort(norms)[:3]
            assert ours.further is not None
            found |= {
                "smallest": ", ".join(f"{norms[c]:.1f} ({c})" for c in first),
                "ratio": float(norms[first[0]] / ours.about["median_norm"]),
                "index": _largest(ours.scores),
                "paper": listed(paper.flagged),
                "ours": listed(ours.flagged),
                "further": listed(ours.further),
                "verdict": ours.verdict,
            }


def _run(found: dict[str, Any]) -> Run:
    """The run that the figures tell of."""
    norms = _numbers(found["norms"])
    targets, sources = np.arange(len(norms)), np.full(len(norms), ANY)
    if "pairs" not in found:
        return bare_run(norms, targets, sources, np.ones(len(norms), bool))
    yardstick = _numbers(found["yardstick"])
    known = {(s, t): np.inf if n is None else n for s, t, n in found["pairs"]}
    if len(yardstick) == len(known):
        sources, targets = np.array(list(known)).T
    else:
        sources, targets = all_pairs(len(norms))
    norms = np.array([known.get(pair, np.nan) for pair in zip(sources, targets, strict=True)])
    return bare_run(norms, targets, sources, np.isin(norms, yardstick))


def _largest(index: np.ndarray) -> str:
    if np.isnan(index).all():
        return "none"
    return f"{np.nanmax(index):.2f} ({np.nanargmax(index)})"


def _numbers(values: list[float | None]) -> np.ndarray:
    """Norms as they stand in JSON: none is infinite."""
    return np.array([np.inf if v is None else v for v in values])
