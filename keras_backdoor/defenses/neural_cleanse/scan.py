"""The base class of scans by trigger inversion: the runs, the low-cost mode and the rules."""

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
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

KEPT = 32
"""The number of triggers that a run stores, those with the smallest norms."""
EXAMPLES = 5
"""The number of clean images that are stored in the answer to show the triggers on."""
MIN_IMAGES, MIN_CLASSES = 30, 3
"""The smallest numbers of clean images and of predicted classes for a verdict.

On the development zoo (`results/images_needed.json`), scans with fewer images, or with images of
one class, miss the target or flag another class."""
OTHERS = 0.05
"""The smallest share of the clean images of other classes than the `MIN_CLASSES` - 1 most frequent.

Without labels, a few errors of the model look like images of a third class."""
MANY = 100
"""The smallest number of targets (or pairs) for which `auto` selects the low-cost mode."""


@dataclass(frozen=True)
class InversionScan(Defense[FlaggedClasses]):
    """Search for the smallest trigger of each target, and flag targets whose trigger is an outlier.

    Args:
        schedule: the settings of each search.
        runs: the number of runs with different starts and images. A class is flagged by the
            majority of the runs.
        rule: the rule that decides which norms are outliers. `scaled` is the rule of this package,
            see `scaled_limit`: it flags the class with the smallest norm and reports the other
            outliers as possible further targets. `paper` flags every class whose anomaly index is
            above `threshold`.
        threshold: the anomaly index above which the `paper` rule flags a class.
        ratio: the share of the median norm below which a norm can be an outlier of the `scaled`
            rule.
        level: the expected number of false alarms of the `scaled` rule among all norms.
        mode: the mode of the scan. `full` searches every target in full. `low-cost`, which the
            paper describes too, makes a quick search of every target and then a full search of the
            `candidates` with the smallest masks and of `others` drawn at random from all targets,
            whose norms are the reference. If there are no more targets than `candidates` and
            `others` together, `low-cost` searches all in full. `auto` selects `low-cost` if there
            are more targets than that and at least 100.
        quick_steps: the number of steps of a quick search in the low-cost mode, for images of up to
            32x32 pixels. Larger images get proportionally more steps and smaller batches.
        candidates: the number of targets that the low-cost mode selects by their small masks.
        others: the number of targets that the low-cost mode draws at random.
        seed: the seed of the first run. Each further run uses the next integer.
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
        """The searches of a run and the images that they draw from."""

    @abstractmethod
    def judge(
        self, runs: list[Run], classes: int, predicted_share: np.ndarray | None = None
    ) -> FlaggedClasses:
        """The answer of the chosen rule for the runs; see `verdict.judge`."""

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        model, clean = evidence.model, evidence.clean
        if model.reject_class is not None:
            raise BadInput("The model is a guard: scan the model that it was made from.")
        runs = self.make_runs(evidence)
        answer = self.judge(runs, model.classes, self.predicted_share(model, clean))
        lacking = too_little(model, clean, self.images_used(clean))
        pixels = int(np.prod(clean.image_shape[:2]))
        if not (lacking or answer.flagged.any() or answer.inconclusive):
            lacking = self._too_short(pixels)
        if lacking:
            answer = replace(answer, inconclusive=lacking)
        source = next((answer.source.get(c) for c in answer.ranked()), None)
        shown = examples(model, clean, source, self.seed)
        pixels = np.round(255 * model.to_input.pixels(shown))
        best = min(runs, key=lambda run: np.inf if not len(run.kept) else run.norms[run.kept[0]])
        search = best.kept[0]
        figures = {
            "smallest_trigger": {
                "class": int(best.targets[search]),
                "l1_norm": float(best.norms[search]),
                "success": best.success,
            }
        }
        return replace(answer, figures=figures, examples=np.clip(pixels, 0, 255).astype(np.uint8))

    def make_runs(self, evidence: Evidence) -> list[Run]:
        """Make the runs, or load finished ones from the work folder."""
        seeds = track(range(self.seed, self.seed + self.runs), "run")
        return [self.one_run(evidence, seed) for seed in seeds]

    def one_run(
        self,
        evidence: Evidence,
        seed: int,
        first: Run | None = None,
        again: np.ndarray | None = None,
    ) -> Run:
        """Make a run, or load it from the work folder.

        Args:
            evidence: the evidence of the method.
            seed: the seed of the run.
            first: an earlier run whose other norms stay, or None.
            again: (m,) the indices of the searches of `first` that are made again, or None.
        """
        compute = partial(self._run_as_arrays, evidence, seed, first, again)
        return Run.from_arrays(evidence.part(f"run-{seed}", compute))

    def _too_short(self, pixels: int) -> str:
        """Why the searches are too short to say that nothing is there; empty if they are not."""
        usual = Schedule()
        steps, wanted = self.schedule.max_steps(pixels), usual.max_steps(pixels) // 2
        if steps < wanted:
            return f"searches of {steps} steps are too short to find nothing: {wanted} are needed"
        if self.schedule.attack_threshold < 0.9:
            return "with an attack_threshold below 0.9, a trigger need not work to count"
        return ""

    def images_used(self, clean: Samples) -> int:
        """The largest number of the clean images that a run uses."""
        return len(clean)

    def predicted_share(self, model: Classifier, clean: Samples) -> np.ndarray | None:
        """(k,) the share of the clean images that the model assigns to each class, or None.

        None if the verdict does not depend on it.
        """
        return None

    def limits(self) -> dict[str, Rule]:
        """Both rules by name, starting with the chosen rule."""
        rules: dict[str, Rule] = {
            "scaled": lambda norms, among: scaled_limit(
                norms, among=among, ratio=self.ratio, level=self.level
            ),
            "paper": lambda norms, among: paper_limit(norms, threshold=self.threshold),
        }
        return {self.rule: rules[self.rule], **rules}

    def _run_as_arrays(
        self, evidence: Evidence, seed: int, first: Run | None, again: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        return self._one_run(evidence, seed, first, again).as_arrays()

    def _one_run(
        self, evidence: Evidence, seed: int, first: Run | None, again: np.ndarray | None
    ) -> Run:
        """Make one run; in the low-cost mode, only some targets are searched in full."""
        space = self.space(evidence.model, evidence.clean, seed)
        number = len(space.targets)
        chosen, reference = np.arange(number), np.ones(number, bool)
        norms = np.full(number, np.nan)
        if first is not None and again is not None:
            chosen, reference, norms = again, first.reference, first.norms
        elif self._low_cost(number):
            compute = partial(self._quick_norms, evidence.model, space, seed)
            quick = evidence.part(f"quick-{seed}", compute)["norms"]
            chosen, reference = self._choose(quick, seed)
        inverter = Inverter(evidence.model, space.images, self.schedule)
        draw = space.draw(self.schedule.batch_size, chosen)
        inverted = inverter.search(
            space.targets[chosen],
            seed=seed,
            draw=draw,
            checkpoint=evidence.checkpoint(f"run-{seed}"),
        )
        norms = norms.copy()
        norms[chosen] = inverted.norms
        smallest = np.argsort(inverted.norms)[:KEPT]
        best, search = smallest[0], int(chosen[smallest[0]])
        success = inverter.success(
            inverted.masks[best],
            inverted.patterns[best],
            int(space.targets[search]),
            space.seen_by(search),
        )
        return Run(
            targets=space.targets,
            sources=space.sources,
            norms=norms,
            reference=reference,
            kept=chosen[smallest],
            masks=inverted.masks[smallest],
            patterns=inverted.patterns[smallest],
            success=success,
        )

    def _low_cost(self, searches: int) -> bool:
        selective = searches > self.candidates + self.others
        return selective and (self.mode == "low-cost" or (self.mode == "auto" and searches >= MANY))

    def _quick_norms(
        self, model: Classifier, space: SearchSpace, seed: int
    ) -> dict[str, np.ndarray]:
        """The norm of every search after a quick search."""
        plan = self.schedule.quick(self.quick_steps, space.pixels)
        inverter = Inverter(model, space.images, plan)
        draw = space.draw(plan.batch_size)
        inverted = inverter.search(space.targets, seed=seed, draw=draw, label="quick search")
        return {"norms": inverted.norms}

    def _choose(self, quick: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose the searches that the low-cost mode makes in full.

        Args:
            quick: (s,) the norms of the quick searches.
            seed: the seed of the random draw.

        Returns:
            (chosen (m,), reference (s,)): the indices of the chosen searches, and a bool array that
            marks the searches drawn at random.
        """
        rng, number = np.random.default_rng(seed), len(quick)
        candidates = np.lexsort((rng.random(number), quick))[: self.candidates]
        others = rng.choice(number, self.others, replace=False)
        return np.union1d(candidates, others), np.isin(np.arange(number), others)


def too_little(model: Classifier, clean: Samples, used: int) -> str:
    """Why the clean images are too few for a verdict; empty if they are not.

    Args:
        model: the examined model.
        clean: the clean images.
        used: the number of them that a run uses.
    """
    looked_at = clean.take(min(1000, len(clean)))
    columns = {" (as the model sees them)": model.predict(looked_at)}
    if looked_at.labels is not None:
        columns[""] = looked_at.labels
    wanted = min(MIN_CLASSES, model.true_classes)
    for how, column in columns.items():
        sizes = np.sort(np.unique(column, return_counts=True)[1])[::-1]
        seen, others = len(sizes), int(sizes[wanted - 1 :].sum())
        if used < MIN_IMAGES or seen < wanted:
            return (
                f"{used} clean image{'' if used == 1 else 's'} of {seen} "
                f"class{'' if seen == 1 else 'es'}{how} are too few: a scan needs {MIN_IMAGES} "
                f"images of {MIN_CLASSES} classes"
            )
        if others < OTHERS * len(looked_at):
            return (
                f"only {others} of {len(looked_at)} clean images are of other classes than the "
                f"{wanted - 1} most frequent ones{how}: a scan needs {OTHERS:.0%}"
            )
    return ""


def examples(model: Classifier, clean: Samples, source: int | None, seed: int) -> np.ndarray:
    """A few clean images as inputs of the model, of the source class if there is one."""
    if source is None:
        return draw_images(model, clean, EXAMPLES, seed)
    positions, first, sizes = images_by_class(model, clean, EXAMPLES, seed)
    own = positions[first[source] : first[source] + sizes[source]]
    return scaled(model, clean.subset(own))
