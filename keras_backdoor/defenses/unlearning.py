"""Unlearning: teach a network the true labels of images that bear the recovered trigger."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from keras_backdoor import _graph
from keras_backdoor.answers import RepairedModel
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._recovered import Recovered, hold_out, recovered, success
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

    Args:
        share: share of the working images that bear a recovered trigger.
        max_epochs: most epochs; it stops as soon as the recovered trigger has lost its effect.
        stop: success of the RECOVERED trigger on held-out clean images that ends it.
        polish: epochs after that at a tenth of the learning rate, which win back accuracy.
        holdout: share of the clean images that is held out for that.
        classes: classes whose triggers are unlearned; none means the flagged ones.
        recipe: of the fine-tuning; its epochs do not count.
        seed: of the parts and of the fine-tuning.
    """

    share: float = 0.2
    max_epochs: int = 10
    stop: float = 0.001
    polish: int = 3
    holdout: float = 0.2
    classes: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("clean", "found")
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"

    def __post_init__(self) -> None:
        for name in ("share", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} must lie between 0 and 1: {getattr(self, name)}")
        if self.max_epochs < 1 or self.polish < 0 or not 0 <= self.stop < 1:
            raise BadInput("max_epochs must be 1 or more, polish 0 or more and stop lie in 0..1.")

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Defense.run`."""
        clean, model = evidence.clean, evidence.model
        assert clean is not None
        clean.known_labels  # noqa: B018
        triggers = recovered(evidence.found, self.classes)
        working, held = hold_out(clean, self.holdout, self.seed)
        data = with_triggers(working, triggers, self.share, self.seed)
        unlearned = Classifier(_graph.copy(model.model), model.input_range)
        history = [measure(model, held, triggers)]
        rates = [1.0] * self.max_epochs + [POLISH] * self.polish
        while rates:
            rate = rates.pop(0)
            unlearned = self._epoch(unlearned, data, len(history), rate)
            history.append(measure(unlearned, held, triggers))
            if history[-1][1] <= self.stop:
                rates = [r for r in rates if r == POLISH]
        accuracy, left = np.array(history).T
        summary = {
            "classes": ", ".join(str(t.target) for t in triggers),
            "epochs": len(history) - 1,
            "recovered trigger, held-out images": f"{left[0]:.2%} -> {left[-1]:.2%}",
            "accuracy, held-out images": f"{accuracy[0]:.2%} -> {accuracy[-1]:.2%}",
        }
        if left[-1] > max(self.stop, TOLERATED):
            summary["warning"] = "the recovered trigger still works: raise max_epochs"
        curves = {"held_accuracy": accuracy, "recovered_success": left}
        return repaired(evidence, unlearned.model, history=curves, about={"summary": summary})

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
