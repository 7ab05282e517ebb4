"""Unlearning: fine-tune a network on correctly labeled images with the recovered trigger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses, Plot, RepairedModel
from keras_backdoor.defenses._recovered_triggers import (
    RecoveredTrigger,
    Refinement,
    hold_out,
    median_norm,
    scan_notes,
    success,
    triggers_of,
)
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import MeanWeights, Recipe, fit

TOLERATED = 0.02
"""The largest success of the recovered triggers without a warning."""
SEARCHED = "smallest trigger, searched anew before and after each round, and at the end"


@dataclass(frozen=True)
class Unlearning(Repair):
    """Fine-tune on clean images, some of which get the recovered trigger but keep their label.

    Wang et al., Neural Cleanse, S&P 2019, section on mitigation: one epoch on 10 % of the training
    data, where 20 % of the images get the reversed trigger.

    The recovered trigger may be a small part of the planted trigger, which can still work after the
    part has been unlearned. Therefore each round searches for more triggers of each class from
    several starts, and unlearns them one by one and in combination. The rounds end when a search
    finds no trigger that is small compared to those of the scan. The weights of the final model are
    averaged over several epochs, and this model is searched once more. `refinement.searches=0`
    unlearns only the trigger of the scan, as in the paper.

    Args:
        share: the share of the training images that get a trigger.
        max_epochs: the largest number of epochs of a round. A round ends early when the triggers no
            longer work.
        stop: the success of the recovered triggers on held-out clean images that ends a round.
        rounds: the largest number of rounds of searching and unlearning.
        refinement: the search for more triggers in each round.
        averaged: the number of additional epochs at the end. The final weights are the mean of the
            weights after each of these epochs (Izmailov et al., Averaging Weights Leads to Wider
            Optima, UAI 2018), because after fine-tuning on few images the mean is more accurate
            than the weights of a single epoch.
        holdout: the share of the clean images that success and accuracy are measured on.
        classes: the classes whose triggers are unlearned. By default the flagged classes.
        recipe: the recipe of the fine-tuning. Its epochs and its seed are ignored.
        seed: the seed of the split, the searches and the fine-tuning.
    """

    share: float = 0.2
    max_epochs: int = 10
    stop: float = 0.01
    rounds: int = 4
    refinement: Refinement = field(default_factory=Refinement)
    averaged: int = 6
    holdout: float = 0.2
    classes: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (
        Need("clean", labelled=True),
        Need("found", answer=FlaggedClasses),
    )
    measured_on: ClassVar[Any] = "own"
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    revision: ClassVar[int] = 2
    quick: ClassVar[dict[str, Any]] = {
        "max_epochs": 4,
        "averaged": 0,
        "rounds": 1,
        "refinement": Refinement(steps=20, searches=2),
    }

    def __post_init__(self) -> None:
        for name in ("share", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(
                    f"{name} must lie between 0 and 1. Received: {name}={getattr(self, name)}"
                )
        for name in ("max_epochs", "rounds"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {name}={getattr(self, name)}")
        if not 0 <= self.stop < 1 or self.averaged < 0:
            raise BadInput(
                "stop must lie in 0..1, and averaged must be 0 or more. Received: "
                f"stop={self.stop}, averaged={self.averaged}"
            )

    def parts(self, clean: Samples) -> tuple[Samples, Samples]:
        """See `Repair.parts`."""
        return hold_out(clean, self.holdout, self.seed)

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        scan = evidence.found(FlaggedClasses)
        flagged = triggers_of(scan, evidence.model, self.classes)
        working, held = self.parts(evidence.clean)
        work = _Rounds(self, evidence.model, working, held, flagged, median_norm(scan))
        remaining = work.all_rounds()
        curves = work.curves
        summary = {
            "classes": ", ".join(str(t.target) for t in flagged),
            "epochs": str(len(curves.accuracy) - 1 - bool(self.averaged)),
            **curves.summary(),
            SEARCHED: work.norms_as_text(),
            **scan_notes(evidence, scan, flagged),
        }
        if curves.worst[-1] > max(self.stop, TOLERATED):
            summary["warning"] = "a recovered trigger still works: raise max_epochs"
        elif remaining:
            summary["warning"] = "a small trigger is still found: raise rounds"
        return repaired(
            evidence,
            work.model.model,
            history={**curves.arrays(), "smallest_norm": np.array(work.norms)},
            plots=(PLOT,),
            summary=summary,
        )


class _Rounds:
    """The state of an unlearning over its rounds.

    Args:
        plan: the settings of the unlearning.
        model: the examined model, which is copied before the training.
        working: the labeled clean images to train on.
        held: the labeled clean images to measure on.
        flagged: the triggers of the scan.
        median_norm: the median norm of the scan.
    """

    def __init__(
        self,
        plan: Unlearning,
        model: Classifier,
        working: Samples,
        held: Samples,
        flagged: list[RecoveredTrigger],
        median_norm: float,
    ) -> None:
        self.plan, self.working, self.median_norm = plan, working, median_norm
        self.model = Classifier(graph.copy(model.model), model.to_input)
        self.by_class = {t.target: [t] for t in flagged}
        self.triggers = list(flagged)
        self.curves = Curves(held, flagged)
        self.curves.measure(model, self.triggers)
        self.norms: list[float] = []

    def all_rounds(self) -> bool:
        """Make rounds until a search finds no small trigger, then average the weights.

        Returns:
            Whether the last search found a small trigger.
        """
        number = 0
        more = self._search(number)
        while number < self.plan.rounds and (more or not number):
            self.triggers += more
            data = with_triggers(self.working, self.triggers, self.plan.share, self.plan.seed)
            watch = partial(self.curves.measure, triggers=self.triggers, sufficient=self.plan.stop)
            self._train(data, self.plan.max_epochs, number, watch)
            number += 1
            more = self._search(number)
        if not self.plan.averaged:
            return bool(more)
        mean = MeanWeights()
        measure = partial(self.curves.measure, triggers=self.triggers)
        self._train(data, self.plan.averaged, number, lambda m: measure(m) or mean.add(m))
        mean.put(self.model)
        measure(self.model)
        return bool(self._search(self.plan.rounds + 1))

    def _search(self, number: int) -> list[RecoveredTrigger]:
        """Search the current model for more triggers, and return them alone and combined."""
        triggers, smallest = [], []
        for known in self.by_class.values():
            small, norm = self.plan.refinement.search(
                self.model,
                self.working,
                known[0],
                median_norm=self.median_norm,
                seed=self.plan.seed + number,
            )
            smallest.append(norm)
            known += small
            if small or not number:
                triggers += [*small, *self.plan.refinement.combined(known)]
        self.norms.append(min(smallest))
        return triggers

    def _train(
        self, data: Samples, epochs: int, number: int, until: Callable[[Classifier], bool]
    ) -> None:
        """Train the model in place for some epochs, until a condition holds.

        All epochs share one optimizer, because the first steps of a new optimizer are large.
        """
        recipe = replace(self.plan.recipe, epochs=epochs, seed=self.plan.seed + number)
        fit(self.model.model, data, recipe, preprocess=self.model.to_input, until=until)

    def norms_as_text(self) -> str:
        """The smallest norm of every search as text."""
        if not self.plan.refinement.searches or not np.isfinite(self.median_norm):
            return "not searched"
        return ", ".join("none" if np.isinf(n) else f"{n:.4g}" for n in self.norms)


class Curves:
    """The accuracy and the success of the triggers on held-out clean images after each epoch.

    Attributes:
        accuracy: the clean accuracy at each measurement.
        success: the largest success of the triggers of the scan at each measurement.
        worst: the largest success of all triggers at each measurement.
    """

    def __init__(self, held: Samples, flagged: Sequence[RecoveredTrigger]) -> None:
        self.held, self.flagged = held, flagged
        self.accuracy: list[float] = []
        self.success: list[float] = []
        self.worst: list[float] = []

    def measure(
        self,
        model: Classifier,
        triggers: Sequence[RecoveredTrigger],
        sufficient: float | None = None,
    ) -> bool:
        """Measure a model and add a point to each curve.

        Args:
            model: the model to measure.
            triggers: all triggers, starting with those of the scan.
            sufficient: the accepted success of the triggers, or None.

        Returns:
            Whether the success of every trigger is at most `sufficient`; False if it is None.
        """
        right = clean_accuracy(model.predict(self.held), self.held.known_labels)
        number = len(self.flagged)
        first = float(success(model, self.held, triggers[:number]))
        rest = float(success(model, self.held, triggers[number:])) if triggers[number:] else 0.0
        self.accuracy.append(float(right))
        self.success.append(first)
        self.worst.append(max(first, rest))
        return sufficient is not None and self.worst[-1] <= sufficient

    def summary(self) -> dict[str, str]:
        """The first and the last value of the curves as text."""
        return {
            "scan's trigger, held-out images": f"{self.success[0]:.2%} -> {self.success[-1]:.2%}",
            "worst of all triggers, held-out images": f"{self.worst[-1]:.2%}",
            "accuracy, held-out images": f"{self.accuracy[0]:.2%} -> {self.accuracy[-1]:.2%}",
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The curves by name."""
        return {
            "held_accuracy": np.array(self.accuracy),
            "recovered_success": np.array(self.success),
            "worst_success": np.array(self.worst),
        }


PLOT = Plot(
    title="Unlearning",
    caption="Measured on held-out clean images. Epoch 0 is the examined model, the last point the "
    "repaired one. All triggers: those of the scan and those that were searched since.",
    series={
        "accuracy": "held_accuracy",
        "success of the scan's trigger": "recovered_success",
        "success of the worst of all triggers": "worst_success",
    },
    x_label="epoch",
)


def with_triggers(
    samples: Samples, triggers: Sequence[RecoveredTrigger], share: float, seed: int
) -> Samples:
    """Stamp triggers on a share of the samples, without changing the labels.

    Each trigger is stamped only on images that it should work on, never on those of its target. At
    most half of the images of a source class are stamped, so the class also has images without a
    trigger.

    Args:
        samples: the labeled samples.
        triggers: the triggers, which get equal parts of the share.
        share: the share of the samples to stamp.
        seed: the seed of the choice of the samples.

    Returns:
        The samples, with the stamped ones at the end.
    """
    labels, order = samples.known_labels, np.random.default_rng(seed).permutation(len(samples))
    free, stamped = np.ones(len(samples), bool), []
    for trigger in triggers:
        number = round(share * len(samples) / len(triggers))
        if trigger.source is not None:
            same_source = sum(t.source == trigger.source for t in triggers)
            number = min(number, int((labels == trigger.source).sum()) // (2 * same_source))
        candidates = order[(free & trigger.applies_to(labels))[order]]
        part = np.sort(candidates[: max(1, number)])
        free[part] = False
        if len(part):
            stamped.append(samples.subset(part).stamped(trigger.stamp))
    return samples.subset(free).concat(*stamped)
