"""Neural Cleanse: a class that a very small stamp leads to is the target of a backdoor."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.base import Defense, Evidence
from keras_backdoor.defenses.neural_cleanse.by_class import Run
from keras_backdoor.defenses.neural_cleanse.outliers import paper_limit, scaled_limit
from keras_backdoor.defenses.neural_cleanse.published import search_published
from keras_backdoor.defenses.neural_cleanse.rows import (
    ANY,
    Rows,
    by_class,
    every_class,
    every_pair,
    pool,
    scaled,
)
from keras_backdoor.defenses.neural_cleanse.schedule import Published, Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.defenses.neural_cleanse.verdict import Rule, judge
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

KEPT = 32
"""Triggers of the smallest norms that are kept."""
EXAMPLES = 5
"""Clean images that are kept with the answer, to show the triggers on."""
MANY = 100
"""Classes (or pairs of them) from which on `auto` searches only a part of them in full."""


@dataclass(frozen=True)
class NeuralCleanse(Defense):
    """Search for the smallest trigger of every class; flag classes whose trigger is an outlier.

    Wang et al., Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks,
    S&P 2019. The clean images need no labels. All classes are searched at once.

    Args:
        schedule: of the search.
        runs: searches with other starts and images; a class is flagged by the majority.
        images: number of clean images that are drawn for the search.
        rule: `scaled` is this package's, see `scaled_limit`: it flags the class with the smallest
            norm and reports further outliers as possible further targets. `paper` flags every
            norm below the median with an anomaly index above `threshold`.
        threshold: of the paper's rule.
        ratio: of the scaled rule; an outlier's norm is below this share of the median.
        level: of the scaled rule; the false alarms that are expected among all norms.
        mode: `full` searches every class to the end. `low-cost` (the paper's too) makes
            `quick_steps` steps for every class, then goes to the end for the `candidates` with
            the smallest masks and for `others` drawn at random from all, which are the yardstick.
            With no more classes than `candidates` and `others` together, low-cost is full; `auto`
            is low-cost where there are more, and 100 or more.
        quick_steps: of the quick look of the low-cost mode, which has one start; with images larger
            than 32x32 it has in proportion more steps of fewer images.
        candidates: of the low-cost mode; classes that it passes on for their small masks.
        others: of the low-cost mode; classes that are drawn at random.
        sources: `all` looks for a trigger that serves images of all classes; `each` looks at every
            pair of source and target class, for backdoors that serve one source only.
        per_source: most clean images of a class where pairs are searched.
        pair_batch: images that a pair sees in a step.
        published: settings of the mode `published`, the authors' schedule, one class after the
            other; from a quarter of an hour for 43 classes to hours on a CPU.
        seed: of the first run; the others follow.

    Notes:
        The published code makes 31 updates over 1,000 images between two looks at the weight of
        the norm; here every update is a step of the schedule, and the attack is judged on its one
        batch. The learning rate, the patience and the starts differ too, see `Schedule`.
    """

    schedule: Schedule = field(default_factory=Schedule)
    runs: int = 3
    images: int = 1000
    rule: Literal["scaled", "paper"] = "scaled"
    threshold: float = 2.0
    ratio: float = 1 / 3
    level: float = 0.05
    mode: Literal["auto", "full", "low-cost", "published"] = "auto"
    quick_steps: int = 30
    candidates: int = 50
    others: int = 50
    sources: Literal["all", "each"] = "all"
    per_source: int = 32
    pair_batch: int = 8
    published: Published = field(default_factory=Published)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    default_for: ClassVar[tuple[str, ...]] = ("scan",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    revision: ClassVar[int] = 3
    quick: ClassVar[dict[str, Any]] = {
        "runs": 1,
        "images": 100,
        "schedule": Schedule(steps=20, starts=1),
    }

    def __post_init__(self) -> None:
        counts = ("runs", "images", "quick_steps", "candidates", "others", "per_source")
        for name in (*counts, "pair_batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {getattr(self, name)}")
        if self.mode not in ("auto", "full", "low-cost", "published"):
            raise BadInput(f"mode must be auto, full, low-cost or published. Received: {self.mode}")
        if self.sources not in ("all", "each") or (
            self.sources == "each" and self.mode == "published"
        ):
            raise BadInput(f"sources must be all, or each without mode=published: {self.sources}")
        if self.rule not in ("scaled", "paper"):
            raise BadInput(f"rule must be scaled or paper. Received: {self.rule}")
        if self.threshold <= 0 or not (0 < self.ratio < 1 and 0 < self.level < 1):
            raise BadInput("threshold must be above 0, ratio and level must lie in 0..1.")

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Defense.run`."""
        model, clean = evidence.model, evidence.clean
        assert clean is not None
        if model.reject_class is not None:
            raise BadInput("The model is a guard: scan the model that it was made from.")
        found = [
            evidence.part(f"run-{seed}", partial(self._search, evidence, clean, seed))
            for seed in range(self.seed, self.seed + self.runs)
        ]
        answered = None
        if self.sources == "all":
            seen = model.predict(clean.take(min(self.images, len(clean)), seed=self.seed))
            answered = np.bincount(seen, minlength=model.classes) / len(seen)
        answer = self.judge(found, model.classes, answered)
        source = next((answer.source.get(c) for c in answer.ranked()), None)
        shown = to_show(model, clean, source, self.seed)
        low, high = model.input_range or (0.0, 1.0)
        examples = np.round(255 * (shown - low) / (high - low)).astype(np.uint8)
        return replace(answer, examples=examples)

    def _search(self, evidence: Evidence, clean: Samples, seed: int) -> Run:
        """One run; see `_by_class.Run`."""
        model, plan = evidence.model, self.schedule
        if self.sources == "each":
            subject = every_pair(model, clean, self.per_source, seed)
            plan = replace(plan, batch_size=self.pair_batch)
        else:
            subject = every_class(model, clean, self.images, seed)
        targets, number = subject.targets, len(subject.targets)
        rows, reference = np.arange(number), np.ones(number, bool)
        if self._low_cost(number):
            look = partial(self._quick_look, model, subject, plan, seed)
            quick = evidence.part(f"quick-look-{seed}", look)["norms"]
            rows, reference = self._choose(quick, seed)
        inverter = Inverter(model, subject.images, plan)
        if self.mode == "published":
            found = search_published(
                model, subject.images, targets[rows], self.published, seed=seed,
                part=lambda label, compute: evidence.part(f"label-{label}-{seed}", compute),
            )  # fmt: skip
        else:
            draw = subject.draw(plan.batch_size, rows)
            found = inverter.search(targets[rows], seed=seed, draw=draw)
        norms = np.full(number, np.nan)
        norms[rows] = found.norms
        kept = np.argsort(found.norms)[:KEPT]
        first, row = kept[0], int(rows[kept[0]])
        works = inverter.success(
            found.masks[first], found.patterns[first], int(targets[row]), subject.seen(row)
        )
        return {
            "success": np.array(works),
            "targets": targets,
            "sources": subject.sources,
            "norms": norms,
            "reference": reference,
            "kept": rows[kept],
            "masks": found.masks[kept],
            "patterns": found.patterns[kept],
        }

    def judge(
        self, runs: list[Run], classes: int, answered: np.ndarray | None = None
    ) -> FlaggedClasses:
        """What the chosen rule says of the runs; see `_runs.judge`."""
        every = self.rule == "paper"
        doubt = None if every or (runs[0]["sources"] != ANY).any() else self._small
        return judge(runs, classes, self.rules(), every=every, doubt=doubt, answered=answered)

    def rules(self) -> dict[str, Rule]:
        """Both rules by name, the chosen one first."""
        rules: dict[str, Rule] = {
            "scaled": lambda norms, among: scaled_limit(
                norms, among=among, ratio=self.ratio, level=self.level
            ),
            "paper": lambda norms, among: paper_limit(norms, threshold=self.threshold),
        }
        return {self.rule: rules[self.rule], **rules}

    def _small(self, norms: np.ndarray, among: int) -> float:
        """The limit of `ratio` alone."""
        return self.ratio * float(np.median(norms[~np.isnan(norms)]))

    def _low_cost(self, rows: int) -> bool:
        enough = rows > self.candidates + self.others
        return enough and (self.mode == "low-cost" or (self.mode == "auto" and rows >= MANY))

    def _quick_look(
        self, model: Classifier, subject: Rows, plan: Schedule, seed: int
    ) -> dict[str, np.ndarray]:
        """The norms of every row after a few steps."""
        plan = plan.glance(self.quick_steps, int(np.prod(subject.images.shape[1:3])))
        draw = subject.draw(plan.batch_size)
        inverter = Inverter(model, subject.images, plan)
        found = inverter.search(subject.targets, seed=seed, draw=draw, label="quick look")
        return {"norms": found.norms}

    def _choose(self, quick: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows to search in full, which of all rows are the yardstick)."""
        rng, number = np.random.default_rng(seed), len(quick)
        candidates = np.lexsort((rng.random(number), quick))[: self.candidates]
        others = rng.choice(number, self.others, replace=False)
        rows = np.union1d(candidates, others)
        return rows, np.isin(np.arange(number), others)


def to_show(model: Classifier, clean: Samples, source: int | None, seed: int) -> np.ndarray:
    """A few clean images in the model's range, of the source class where there is one."""
    if source is None:
        return pool(model, clean, EXAMPLES, seed)
    numbers, first, sizes = by_class(model, clean, EXAMPLES, seed)
    return scaled(model, clean.rows(numbers[first[source] : first[source] + sizes[source]]))
