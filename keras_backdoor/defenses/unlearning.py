"""Unlearning: teach a network the true labels of images that bear the recovered trigger."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from keras_backdoor import _graph
from keras_backdoor.answers import RepairedModel
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._recovered import hold_out, recovered, success
from keras_backdoor.defenses.base import Defense, Evidence, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers.base import Stamp

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
        while len(history) <= self.max_epochs:
            unlearned = self._epoch(unlearned, data, len(history), 1.0)
            history.append(measure(unlearned, held, triggers))
            if history[-1][1] <= self.stop:
                break
        for _ in range(self.polish):
            unlearned = self._epoch(unlearned, data, len(history), 0.1)
            history.append(measure(unlearned, held, triggers))
        accuracy, left = np.array(history).T
        summary = {
            "classes": ", ".join(map(str, triggers)),
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


def with_triggers(samples: Samples, triggers: dict[int, Stamp], share: float, seed: int) -> Samples:
    """The samples with a share of them stamped, split evenly among the triggers; labels stay."""
    chosen = np.random.default_rng(seed).permutation(len(samples))[: round(share * len(samples))]
    parts = [np.sort(p) for p in np.array_split(chosen, len(triggers)) if len(p)]
    rest = np.setdiff1d(np.arange(len(samples)), chosen)
    stamped = [
        samples.rows(part).stamped(stamp)
        for part, stamp in zip(parts, triggers.values(), strict=False)
    ]
    return samples.rows(rest).concat(*stamped)


def measure(model: Classifier, held: Samples, triggers: dict[int, Stamp]) -> tuple[float, float]:
    """(accuracy, success of the recovered triggers) on held-out clean images."""
    accuracy = clean_accuracy(model.predict(held), held.known_labels)
    return float(accuracy), float(success(model, held, triggers))
