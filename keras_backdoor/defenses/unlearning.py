"""Unlearning: teach a network the true labels of images that bear the recovered trigger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._recovered import (
    Again,
    Recovered,
    hold_out,
    notes,
    recovered,
    success,
    usual_norm,
)
from keras_backdoor.defenses.base import Defense, Evidence, check_no_guard, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import MeanWeights, Recipe, fit

TOLERATED = 0.02
"""Success of the recovered triggers that is no reason for a warning."""


@dataclass(frozen=True)
class Unlearning(Defense):
    """Fine-tune on clean images, some of which bear the recovered trigger and keep their label.

    Wang et al., Neural Cleanse, S&P 2019, on mitigation: one epoch on 10 % of the training data,
    the reversed trigger on 20 % of it.

    The recovered trigger may be a small part of the planted one, which still works when the part
    does not. Therefore the trigger of each class is searched anew from several starts; what is
    found is unlearned too, each by itself and all on top of one another. When all of them have
    lost their effect, the model as it is then is searched again, and so on until the class has no
    trigger any more that is small for the scan. The model that goes out, with the mean of the
    weights, is searched once more. `again.searches=0` keeps to the trigger of the scan, as the
    paper does.

    Args:
        share: share of the working images that bear a trigger.
        max_epochs: most epochs of a round; it ends as soon as the triggers have lost their effect.
        stop: success of the recovered triggers on held-out clean images that ends it.
        rounds: most times that triggers are searched and unlearned.
        again: how they are searched.
        averaged: epochs at the end. The weights become the mean of those after each of them
            (Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018): a network that is
            fine-tuned on few images gets more right so than after any one epoch.
        holdout: share of the clean images that success and accuracy are measured on.
        classes: classes whose triggers are unlearned; none means the flagged ones.
        recipe: of the fine-tuning; its epochs and its seed do not count.
        seed: of the parts, the searches and the fine-tuning.
    """

    share: float = 0.2
    max_epochs: int = 10
    stop: float = 0.01
    rounds: int = 4
    again: Again = field(default_factory=Again)
    averaged: int = 6
    holdout: float = 0.2
    classes: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("clean", "found")
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    revision: ClassVar[int] = 2
    quick: ClassVar[dict[str, Any]] = {
        "max_epochs": 1,
        "averaged": 0,
        "rounds": 1,
        "again": Again(steps=20, searches=2),
    }

    def __post_init__(self) -> None:
        for name in ("share", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} must lie between 0 and 1: {getattr(self, name)}")
        if self.max_epochs < 1 or self.rounds < 1 or not 0 <= self.stop < 1:
            raise BadInput("max_epochs and rounds must be 1 or more and stop lie in 0..1.")
        if self.averaged < 0:
            raise BadInput(f"averaged must be 0 or more. Received: {self.averaged}")

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Defense.run`."""
        clean, model = evidence.clean, evidence.model
        assert clean is not None
        check_no_guard(model)
        clean.known_labels  # noqa: B018
        flagged = recovered(evidence.found, model, self.classes)
        working, held = hold_out(clean, self.holdout, self.seed)
        unlearned = Classifier(graph.copy(model.model), model.input_range)
        parts = {t.target: [t] for t in flagged}
        triggers, norms, curves = list(flagged), [], Curves(held, flagged)
        curves.measure(model, triggers)
        usual = usual_norm(evidence.found)
        for number in range(self.rounds + 1):
            more, smallest = self._more(unlearned, working, parts, usual, number)
            norms.append(smallest)
            if number == self.rounds or (number and not more):
                break
            triggers += more
            data = with_triggers(working, triggers, self.share, self.seed)
            watch = partial(curves.measure, triggers=triggers, enough=self.stop)
            self._fit(unlearned, data, self.max_epochs, number, watch)
        if self.averaged:
            mean = MeanWeights()
            watch = partial(curves.measure, triggers=triggers)
            self._fit(unlearned, data, self.averaged, number, lambda m: watch(m) or mean.add(m))
            mean.put(unlearned)
            watch(unlearned)
            more, smallest = self._more(unlearned, working, parts, usual, self.rounds + 1)
            norms.append(smallest)
        summary = {
            "classes": ", ".join(str(t.target) for t in flagged),
            "epochs": str(len(curves.accuracy) - 1 - bool(self.averaged)),
            **curves.summary(),
            "smallest trigger, searched anew before and after each round, and at the end": (
                ", ".join("none" if np.isinf(n) else f"{n:.4g}" for n in norms)
                if self.again.searches and np.isfinite(usual)
                else "not searched"
            ),
            **notes(evidence, flagged),
        }
        if curves.worst[-1] > max(self.stop, TOLERATED):
            summary["warning"] = "a recovered trigger still works: raise max_epochs"
        elif more:
            summary["warning"] = "a small trigger is still found: raise rounds"
        history = {**curves.arrays(), "smallest_norm": np.array(norms)}
        return repaired(evidence, unlearned.model, history=history, about={"summary": summary})

    def _more(
        self,
        model: Classifier,
        clean: Samples,
        parts: dict[int, list[Recovered]],
        usual: float,
        number: int,
    ) -> tuple[list[Recovered], float]:
        """More triggers of the flagged classes in the model as it is, alone and piled up.

        Args:
            model: as it is now.
            clean: labelled images.
            parts: class -> its triggers so far; grows.
            usual: median norm of the scan.
            number: of the round.

        Returns:
            (what is to be unlearned too, the smallest norm that was found).
        """
        stamps, smallest = [], []
        for known in parts.values():
            seed = self.seed + number
            found, norm = self.again.find(model, clean, known[0], usual=usual, seed=seed)
            smallest.append(norm)
            known += found
            if found or not number:
                stamps += [*found, *self.again.piled(known)]
        return stamps, min(smallest)

    def _fit(
        self,
        model: Classifier,
        data: Samples,
        epochs: int,
        number: int,
        until: Callable[[Classifier], bool],
    ) -> None:
        """Some epochs more, in place.

        One training, not one for every epoch: an optimizer that starts anew takes large steps.
        """
        plan = replace(self.recipe, epochs=epochs, seed=self.seed + number)
        fit(model.model, data, plan, input_range=model.input_range or (0.0, 1.0), until=until)


class Curves:
    """Accuracy and success of the triggers on held-out clean images, epoch by epoch.

    Attributes:
        accuracy, success, worst: one value for each model that was measured: clean accuracy,
            success of the scan's triggers, and of the most successful of all triggers.
    """

    def __init__(self, held: Samples, flagged: Sequence[Recovered]) -> None:
        self.held, self.flagged = held, flagged
        self.accuracy: list[float] = []
        self.success: list[float] = []
        self.worst: list[float] = []

    def measure(
        self, model: Classifier, triggers: Sequence[Recovered], enough: float | None = None
    ) -> bool:
        """One more point of each curve; the scan's triggers are the first of all.

        Returns:
            Whether no trigger succeeds on more than `enough` of the images; False without one.
        """
        right = clean_accuracy(model.predict(self.held), self.held.known_labels)
        number = len(self.flagged)
        first = float(success(model, self.held, triggers[:number]))
        rest = float(success(model, self.held, triggers[number:])) if triggers[number:] else 0.0
        self.accuracy.append(float(right))
        self.success.append(first)
        self.worst.append(max(first, rest))
        return enough is not None and self.worst[-1] <= enough

    def summary(self) -> dict[str, str]:
        """From the first to the last."""
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


def with_triggers(
    samples: Samples, triggers: Sequence[Recovered], share: float, seed: int
) -> Samples:
    """The samples with a share of them stamped, split among the triggers; labels stay.

    A trigger is put on images that it serves, never on those of its target. Triggers of one source
    class share at most half of its images, so that it is the trigger that tells the halves apart.
    """
    labels, order = samples.known_labels, np.random.default_rng(seed).permutation(len(samples))
    free, stamped = np.ones(len(samples), bool), []
    for trigger in triggers:
        number = round(share * len(samples) / len(triggers))
        if trigger.source is not None:
            alike = sum(t.source == trigger.source for t in triggers)
            number = min(number, int((labels == trigger.source).sum()) // (2 * alike))
        able = order[(free & trigger.served(labels))[order]]
        part = np.sort(able[: max(1, number)])
        free[part] = False
        if len(part):
            stamped.append(samples.rows(part).stamped(trigger.stamp))
    return samples.rows(free).concat(*stamped)
