"""Unlearning: teach a network the true labels of images that bear the recovered trigger."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor import _graph
from keras_backdoor.answers import RepairedModel
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._recovered import (
    SMALL,
    STRENGTHS,
    Recovered,
    hold_out,
    recovered,
    search_again,
    success,
    together,
    usual_norm,
)
from keras_backdoor.defenses._schedule import Schedule
from keras_backdoor.defenses.base import Defense, Evidence, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit

POLISH = 0.1
"""Share of the learning rate in the epochs that win back accuracy."""
TOLERATED = 0.01
"""Success of the recovered trigger that is no reason for a warning."""


@dataclass(frozen=True)
class Unlearning(Defense):
    """Fine-tune on clean images, some of which bear the recovered trigger and keep their label.

    Wang et al., Neural Cleanse, S&P 2019, section VII-C: one epoch on 10 % of the training data,
    the reversed trigger on 20 % of it.

    The recovered trigger may be a small part of the planted one, which still works when the part
    does not. Therefore the trigger of each class is searched anew from several starts; what is
    found is unlearned too, each by itself and all on top of one another. When the triggers so far
    have lost their effect, the model as it is then is searched again, until the class has no
    trigger any more that is smaller than half of the scan's median norm. `rounds=1, searches=0`
    is the paper's way.

    Args:
        share: share of the working images that bear a recovered trigger.
        max_epochs: most epochs of a round; it ends as soon as the recovered triggers have lost
            their effect.
        stop: success of the RECOVERED trigger on held-out clean images that ends it.
        polish: epochs after that at a tenth of the learning rate, which win back accuracy.
        rounds: most times that triggers are searched and unlearned.
        searches: starts of the search in each; 0 keeps to the trigger of the scan.
        schedule: of that search.
        holdout: share of the clean images that is held out for that.
        classes: classes whose triggers are unlearned; none means the flagged ones.
        recipe: of the fine-tuning; its epochs do not count.
        seed: of the parts and of the fine-tuning.
    """

    share: float = 0.2
    max_epochs: int = 10
    stop: float = 0.001
    polish: int = 3
    rounds: int = 4
    searches: int = 8
    schedule: Schedule = field(default_factory=Schedule)
    holdout: float = 0.2
    classes: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("clean", "found")
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    quick: ClassVar[dict[str, Any]] = {
        "max_epochs": 1,
        "polish": 0,
        "rounds": 1,
        "searches": 2,
        "schedule": Schedule(steps=20, starts=1),
    }

    def __post_init__(self) -> None:
        for name in ("share", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} must lie between 0 and 1: {getattr(self, name)}")
        if self.max_epochs < 1 or self.rounds < 1 or not 0 <= self.stop < 1:
            raise BadInput("max_epochs and rounds must be 1 or more and stop lie in 0..1.")
        if self.polish < 0 or self.searches < 0:
            raise BadInput("polish and searches must be 0 or more.")

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Defense.run`."""
        clean, model = evidence.clean, evidence.model
        assert clean is not None
        clean.known_labels  # noqa: B018
        flagged = recovered(evidence.found, self.classes)
        below = SMALL * usual_norm(evidence.found)
        working, held = hold_out(clean, self.holdout, self.seed)
        unlearned = Classifier(_graph.copy(model.model), model.input_range)
        parts = {t.target: [t] for t in flagged}
        triggers, history = list(flagged), [measure(model, held, flagged)]
        norms: list[float] = []
        for number in range(self.rounds + 1):
            more = self._more(unlearned, working, parts, below, norms)
            if number == self.rounds or (number and not more):
                break
            triggers += more
            data = with_triggers(working, triggers, self.share, self.seed)
            for _ in range(self.max_epochs):
                unlearned = self._epoch(unlearned, data, len(history), 1.0)
                history.append(measure(unlearned, held, triggers))
                if history[-1][1] <= self.stop:
                    break
        for _ in range(self.polish):
            unlearned = self._epoch(unlearned, data, len(history), POLISH)
            history.append(measure(unlearned, held, triggers))
        accuracy, left = np.array(history).T
        summary = {
            "classes": ", ".join(str(t.target) for t in flagged),
            "epochs": len(history) - 1,
            "smallest trigger before each round": ", ".join(f"{n:.4g}" for n in norms)
            or "not searched",
            "recovered trigger, held-out images": f"{left[0]:.2%} -> {left[-1]:.2%}",
            "accuracy, held-out images": f"{accuracy[0]:.2%} -> {accuracy[-1]:.2%}",
        }
        if left[-1] > max(self.stop, TOLERATED):
            summary["warning"] = "the recovered trigger still works: raise max_epochs"
        elif more:
            summary["warning"] = "a small trigger is still found: raise rounds"
        curves = {
            "held_accuracy": accuracy,
            "recovered_success": left,
            "smallest_norm": np.array(norms),
        }
        return repaired(evidence, unlearned.model, history=curves, about={"summary": summary})

    def _more(
        self,
        model: Classifier,
        clean: Samples,
        parts: dict[int, list[Recovered]],
        below: float,
        norms: list[float],
    ) -> list[Recovered]:
        """More triggers of the flagged classes in the model as it is, alone and together.

        Args:
            model: as it is now.
            clean: labelled images.
            parts: class -> its triggers so far; grows.
            below: the norm from which on a trigger is an ordinary one.
            norms: of the smallest trigger of each round so far; grows.
        """
        if not self.searches:
            return []
        stamps, smallest = [], []
        for known in parts.values():
            again, norm = search_again(
                model,
                clean,
                known[0],
                self.schedule,
                searches=self.searches,
                below=below,
                seed=self.seed + len(norms),
            )
            smallest.append(norm)
            known += again
            if again or not norms:
                stamps += [*again, *(together(known, strength) for strength in STRENGTHS)]
        norms.append(min(smallest))
        return stamps

    def _epoch(self, model: Classifier, data: Samples, number: int, rate: float) -> Classifier:
        """The model after one more epoch at this share of the learning rate."""
        rate *= self.recipe.learning_rate
        plan = replace(self.recipe, epochs=1, learning_rate=rate, seed=self.seed + number)
        return fit(model.model, data, plan, input_range=model.input_range or (0.0, 1.0))[0]


def with_triggers(
    samples: Samples, triggers: Sequence[Recovered], share: float, seed: int
) -> Samples:
    """The samples with a share of them stamped, split evenly among the triggers; labels stay.

    A trigger that serves one source class is put on at most half of its images, so that it is
    the trigger that tells the two halves apart.
    """
    order, number = np.random.default_rng(seed).permutation(len(samples)), len(triggers)
    free, stamped = np.ones(len(samples), bool), []
    for trigger in triggers:
        able = order[free[order]]
        if trigger.source is not None:
            able = able[samples.known_labels[able] == trigger.source]
            able = able[: -(-len(able) // 2)]
        part = np.sort(able[: max(1, round(share * len(samples) / number))])
        free[part] = False
        if len(part):
            stamped.append(samples.rows(part).stamped(trigger.stamp))
    return samples.rows(free).concat(*stamped)


def measure(model: Classifier, held: Samples, triggers: Sequence[Recovered]) -> tuple[float, float]:
    """(accuracy, success of the recovered triggers) on held-out clean images."""
    accuracy = clean_accuracy(model.predict(held), held.known_labels)
    return float(accuracy), float(success(model, held, triggers))
