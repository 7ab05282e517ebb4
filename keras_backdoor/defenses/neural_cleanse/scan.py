"""What the scans by trigger inversion share: runs, the low-cost mode and the rules."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.base import Defense, Evidence, Need
from keras_backdoor.defenses.neural_cleanse.images import (
    SearchSpace,
    draw_images,
    images_by_class,
    scaled,
)
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.defenses.neural_cleanse.verdict import (
    Rule,
    Run,
    paper_limit,
    scaled_limit,
)
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

KEPT = 32
"""Triggers of the smallest norms that a run keeps."""
EXAMPLES = 5
"""Clean images that are kept with the answer, to show the triggers on."""
MANY = 100
"""Targets (or pairs) from which on `auto` searches only a part of them in full."""


@dataclass(frozen=True)
class InversionScan(Defense[FlaggedClasses]):
    """Search for the smallest trigger of each target, and flag targets whose trigger is an outlier.

    Args:
        schedule: the settings of each search.
        runs: the number of runs with other starts and images; the majority of them flags a class.
        rule: `scaled` is the rule of this package, see `scaled_limit`: it flags the class with the
            smallest norm and reports further outliers as possible further targets. `paper` flags
            every norm below the median with an anomaly index above `threshold`.
        threshold: the anomaly index above which the paper's rule flags a class.
        ratio: the share of the median norm below which the scaled rule calls a norm an outlier.
        level: the number of false alarms among all norms that the scaled rule expects.
        mode: `full` searches every target to the end. `low-cost` (the paper's too) makes a quick
            search of every target, then a full one for the `candidates` with the smallest masks
            and for `others` drawn at random from all, whose norms are the reference. With no more
            targets than `candidates` and `others` together, low-cost is full; `auto` is low-cost
            where there are more, and 100 or more.
        quick_steps: the number of steps of the quick search of the low-cost mode, which has one
            start; images larger than 32x32 get in proportion more steps of fewer images.
        candidates: the number of targets that the low-cost mode passes on for their small masks.
        others: the number of targets that the low-cost mode draws at random.
        seed: the seed of the first run; the others follow.
    """

    schedule: Schedule = field(default_factory=Schedule)
    runs: int = 3
    rule: Literal["scaled", "paper"] = "scaled"
    threshold: float = 2.0
    ratio: float = 1 / 3
    level: float = 0.05
    mode: Literal["auto", "full", "low-cost"] = "auto"
    quick_steps: int = 30
    candidates: int = 50
    others: int = 50
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("scan",)

    def __post_init__(self) -> None:
        for name in ("runs", "quick_steps", "candidates", "others"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {name}={getattr(self, name)}")
        if self.mode not in ("auto", "full", "low-cost"):
            raise BadInput(f"mode must be auto, full or low-cost. Received: mode={self.mode}")
        if self.rule not in ("scaled", "paper"):
            raise BadInput(f"rule must be scaled or paper. Received: rule={self.rule}")
        if self.threshold <= 0 or not (0 < self.ratio < 1 and 0 < self.level < 1):
            raise BadInput(
                "threshold must be above 0, and ratio and level must lie in 0..1. Received: "
                f"threshold={self.threshold}, ratio={self.ratio}, level={self.level}"
            )

    @abstractmethod
    def space(self, model: Classifier, clean: Samples, seed: int) -> SearchSpace:
        """The targets of a run and the images that it draws from."""

    @abstractmethod
    def judge(
        self, runs: list[Run], classes: int, predicted_share: np.ndarray | None = None
    ) -> FlaggedClasses:
        """The verdict of the chosen rule on the runs; see `verdict.judge`."""

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        model, clean = evidence.model, evidence.clean
        if model.reject_class is not None:
            raise BadInput("The model is a guard: scan the model that it was made from.")
        runs = []
        for seed in range(self.seed, self.seed + self.runs):
            compute = partial(self._run_as_arrays, evidence, seed)
            runs.append(Run.from_arrays(evidence.part(f"run-{seed}", compute)))
        answer = self.judge(runs, model.classes, self.predicted_share(model, clean))
        source = next((answer.source.get(c) for c in answer.ranked()), None)
        shown = examples(model, clean, source, self.seed)
        low, high = model.input_range or (0.0, 1.0)
        return replace(
            answer, examples=np.round(255 * (shown - low) / (high - low)).astype(np.uint8)
        )

    def predicted_share(self, model: Classifier, clean: Samples) -> np.ndarray | None:
        """(k,) share of the clean images that the model puts in each class, where it counts."""
        return None

    def limits(self) -> dict[str, Rule]:
        """Both rules by name, the chosen one first."""
        rules: dict[str, Rule] = {
            "scaled": lambda norms, among: scaled_limit(
                norms, among=among, ratio=self.ratio, level=self.level
            ),
            "paper": lambda norms, among: paper_limit(norms, threshold=self.threshold),
        }
        return {self.rule: rules[self.rule], **rules}

    def _run_as_arrays(self, evidence: Evidence, seed: int) -> dict[str, np.ndarray]:
        return self._one_run(evidence, seed).as_arrays()

    def _one_run(self, evidence: Evidence, seed: int) -> Run:
        """One run: the low-cost mode chooses what is searched in full."""
        space = self.space(evidence.model, evidence.clean, seed)
        number = len(space.targets)
        chosen, reference = np.arange(number), np.ones(number, bool)
        if self._low_cost(number):
            compute = partial(self._quick_norms, evidence.model, space, seed)
            quick = evidence.part(f"quick-{seed}", compute)["norms"]
            chosen, reference = self._choose(quick, seed)
        inverter = Inverter(evidence.model, space.images, self.schedule)
        draw = space.draw(self.schedule.batch_size, chosen)
        inverted = inverter.search(space.targets[chosen], seed=seed, draw=draw)
        norms = np.full(number, np.nan)
        norms[chosen] = inverted.norms
        kept = np.argsort(inverted.norms)[:KEPT]
        first, search = kept[0], int(chosen[kept[0]])
        success = inverter.success(
            inverted.masks[first],
            inverted.patterns[first],
            int(space.targets[search]),
            space.seen_by(search),
        )
        return Run(
            targets=space.targets,
            sources=space.sources,
            norms=norms,
            reference=reference,
            kept=chosen[kept],
            masks=inverted.masks[kept],
            patterns=inverted.patterns[kept],
            success=success,
        )

    def _low_cost(self, searches: int) -> bool:
        enough = searches > self.candidates + self.others
        return enough and (self.mode == "low-cost" or (self.mode == "auto" and searches >= MANY))

    def _quick_norms(
        self, model: Classifier, space: SearchSpace, seed: int
    ) -> dict[str, np.ndarray]:
        """The norm of every target after a few steps."""
        plan = self.schedule.quick(self.quick_steps, space.pixels)
        inverter = Inverter(model, space.images, plan)
        draw = space.draw(plan.batch_size)
        inverted = inverter.search(space.targets, seed=seed, draw=draw, label="quick search")
        return {"norms": inverted.norms}

    def _choose(self, quick: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(searches that are made in full, which of all searches are the reference)."""
        rng, number = np.random.default_rng(seed), len(quick)
        candidates = np.lexsort((rng.random(number), quick))[: self.candidates]
        others = rng.choice(number, self.others, replace=False)
        return np.union1d(candidates, others), np.isin(np.arange(number), others)


def examples(model: Classifier, clean: Samples, source: int | None, seed: int) -> np.ndarray:
    """A few clean images in the model's range, of the source class where there is one."""
    if source is None:
        return draw_images(model, clean, EXAMPLES, seed)
    positions, first, sizes = images_by_class(model, clean, EXAMPLES, seed)
    own = positions[first[source] : first[source] + sizes[source]]
    return scaled(model, clean.subset(own))
