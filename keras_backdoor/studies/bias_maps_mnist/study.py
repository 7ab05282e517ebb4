"""The experiments I, II and III of Borji on MNIST, with several networks of each kind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.attacks.badnets import BadNets, poison
from keras_backdoor.attacks.base import Poisoned
from keras_backdoor.attacks.fine_tuned import FineTuned
from keras_backdoor.evaluation import evaluate
from keras_backdoor.explanations.bias_maps import BiasMaps
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.training import Recipe
from keras_backdoor.triggers import Add
from keras_backdoor.triggers.base import Trigger

DATA = "mnist.npz"
PAIRS = ((8, 9), (0, 3), (4, 7), (2, 5))
"""The source and the target of each attack."""
COUNT = 2000
"""The number of poisoned images, which are relabeled in place."""
SEEDS = (0, 1, 2)
PARENTS = 10
"""The number of clean networks; each has a child that was fine-tuned without poison."""
APART = 5
"""The seed of the clean network that is an independent reference, for networks with seed 0."""
FIRST, SECOND, DOUBLED, BLENDED = (
    "experiment I", "experiment II", "experiment III, multiplied", "experiment III, blended",
)  # fmt: skip
CLEAN = "clean children"
INPUTS: dict[str, dict[str, Any]] = {
    "data": {"inputs": "data", "images": 1000},
    "noise": {"inputs": "noise", "images": 300},
    "blank": {"inputs": "blank"},
}


@dataclass(frozen=True)
class AddedTarget(BadNets):
    """Poisoned images with a faint image of the target class, which is drawn for each of them."""

    def trigger_from(self, samples: Samples) -> Trigger:
        """The trigger, with the images of the target class among the samples."""
        own = samples.of_class(self.target)
        return Add(images=own.take(min(1000, len(own)), seed=0), weight=0.1)

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        return poison(
            samples,
            self.trigger_from(samples),
            target=self.target,
            source=self.source,
            count=self.count,
            replace=self.replace,
            seed=seed,
        )


class BiasMapsMNIST(Study):
    """Do the maps of a backdoored network differ from those of its parent at the target or source?

    Borji, Adversarial examples are useful too!, 2020. A clean network is fine-tuned on data in
    which 2,000 images of the source class bear a trigger and the label of the target: a C at the
    top right (experiment I), the same at random blank places (II), pixels that are doubled, or a
    faint image of the target class (III).
    """

    title: ClassVar[str] = "Bias maps of MNIST networks"
    paper: ClassVar[str] = "Borji, Adversarial examples are useful too!, 2020 (arXiv 2005.06107)"
    files: ClassVar[tuple[str, ...]] = (DATA,)
    columns: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "accuracy %",
        "attack": "attack on the source %",
        "largest": "class with the largest distance",
        "ratio": "multiple of the median",
        "row_rank": "rank of the source (pairs)",
        "column_rank": "rank of the target (pairs)",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [*self._attacked(), *self._clean(), *self._pairs()]

    def _attacked(self) -> Iterator[Cell]:
        triggers = {FIRST: "c-patch", SECOND: "placed", DOUBLED: "double", BLENDED: "add"}
        for group, trigger in triggers.items():
            for source, target in PAIRS:
                everywhere = group in (FIRST, SECOND) or (source, target) == PAIRS[0]
                for seed in SEEDS if everywhere else SEEDS[:1]:
                    net = self._net(seed, source, target, trigger)
                    name = f"{group}, {source} -> {target}, seed {seed}"
                    yield Cell(name, self._given(net, seed), group=group)

    def _clean(self) -> Iterator[Cell]:
        for seed in range(PARENTS):
            net = replace(self._parent(seed), training=FineTuned())
            yield Cell(f"clean child, seed {seed}", self._given(net, seed), group=CLEAN)

    def _pairs(self) -> Iterator[Cell]:
        for group, trigger in ((FIRST, "c-patch"), (SECOND, "placed")):
            for source, target in PAIRS:
                given = {
                    "net": self._net(0, source, target, trigger),
                    "parent": self._parent(0),
                    "pairs": self._method({"images": 1000}, algorithm="pairs"),
                }
                yield Cell(f"{group}, {source} -> {target}, pairs", given, group=f"{group}, pairs")
        given = {
            "net": replace(self._parent(0), training=FineTuned()),
            "parent": self._parent(0),
            "pairs": self._method({"images": 1000}, algorithm="pairs"),
        }
        yield Cell("clean child, pairs", given, group=f"{CLEAN}, pairs")

    def _parent(self, seed: int) -> Net:
        net = Net(DATA, "borji_mnist", Recipe(epochs=3, batch_size=64, seed=seed))
        if self.scale == "full":
            return net
        return replace(net, take=1500, recipe=replace(net.recipe, epochs=1))

    def _net(self, seed: int, source: int, target: int, trigger: str) -> Net:
        kind = AddedTarget if trigger == "add" else BadNets
        count = COUNT if self.scale == "full" else 60
        attack = kind(trigger, target, source, count, replace=True)
        return replace(self._parent(seed), attack=attack, training=FineTuned())

    def _given(self, net: Net, seed: int) -> dict[str, Any]:
        methods = {name: self._method(settings) for name, settings in INPUTS.items()}
        given = {"net": net, "parent": self._parent(seed), **methods}
        if seed == 0:
            given["independent"] = self._parent(APART)
        return given

    def _method(self, settings: Mapping[str, Any], **more: Any) -> BiasMaps:
        method = BiasMaps(**settings, **more)
        return method if self.scale == "full" else replace(method, images=20)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net, given = cell.given["net"], cell.given
        child, parent = (obtain(n, workspace).classifier for n in (net, given["parent"]))
        train, clean = net.clean_data(workspace)
        test = net.open(workspace, "test")
        test = test if self.scale == "full" else test.take(400, seed=0)
        figures: dict[str, Any] = {
            "clean_accuracy": evaluate(child, test).clean_accuracy,
            "parent_accuracy": evaluate(parent, test).clean_accuracy,
        }
        attack = net.attack
        if attack is not None:
            own = test.of_class(attack.source)
            adds = isinstance(attack, AddedTarget)
            trigger = attack.trigger_from(train) if adds else attack.stamp
            measured = evaluate(child, own, trigger=trigger, target=attack.target)
            figures["attack"] = measured.attack_success_rate
        if "pairs" in given:
            answer = given["pairs"](child, clean=clean, reference=parent)
            return figures | _pair_figures(answer, attack)
        for name in INPUTS:
            answer = given[name](child, clean=clean, reference=parent)
            figures[name] = _figures(answer)
        figures["largest"] = figures["data"]["largest"]
        figures["ratio"] = figures["data"]["ratio"]
        if "independent" in given:
            other = obtain(given["independent"], workspace).classifier
            figures["independent"] = _figures(given["data"](child, clean=clean, reference=other))
        alone = given["data"](child, clean=clean)
        figures["alone"] = {
            "largest": int(np.nanargmax(alone.scores)),
            "score": float(np.nanmax(alone.scores)),
            "flagged": np.flatnonzero(alone.flagged).tolist(),
        }
        return figures


def _figures(answer: FlaggedClasses) -> dict[str, Any]:
    distance = answer.measures["distance"]
    return {
        "distance": [None if np.isnan(d) else float(d) for d in distance],
        "largest": int(np.nanargmax(distance)),
        "ratio": float(np.nanmax(distance) / np.nanmedian(distance)),
        "flagged": np.flatnonzero(answer.flagged).tolist(),
        "reached": answer.measures["ratio"].tolist(),
    }


def _pair_figures(answer: FlaggedClasses, attack: BadNets | None) -> dict[str, Any]:
    """The rows and columns of the distances of pairs, and the ranks of the true ones."""
    row, column = answer.measures["row"], answer.measures["column"]
    figures: dict[str, Any] = {
        "row": row.tolist(),
        "column": column.tolist(),
        "flagged": np.flatnonzero(answer.flagged).tolist(),
    }
    if attack is not None:
        assert attack.source is not None
        figures["row_rank"] = _rank(row, attack.source)
        figures["column_rank"] = _rank(column, attack.target)
    return figures


def _rank(values: np.ndarray, number: int) -> int:
    """The rank of one of the values, from 1 for the largest.

    >>> _rank(np.array([0.2, 0.9, 0.5]), 2)
    2
    """
    return 1 + int((values > values[number]).sum())
