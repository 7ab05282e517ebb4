"""What the mitigations of Neural Cleanse share: recovered triggers and how well they still work."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses
from keras_backdoor.classifier import Classifier
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp


@dataclass(frozen=True, eq=False)
class Recovered:
    """A trigger that a scan found.

    Attributes:
        target: the class that it leads to.
        stamp: the trigger.
        source: the one class whose images it serves, or None for all.
    """

    target: int
    stamp: Stamp
    source: int | None = None

    def served(self, labels: np.ndarray) -> np.ndarray:
        """(n,) bool, the images that it serves: never those of its target.

        Raises:
            BadInput: there are none.
        """
        chosen = labels != self.target if self.source is None else labels == self.source
        if not chosen.any():
            what = "other than" if self.source is None else "of source class"
            number = self.target if self.source is None else self.source
            raise BadInput(
                f"The clean images hold none {what} {number}, which the trigger of class "
                f"{self.target} would serve."
            )
        return chosen


def recovered(found: Answer | None, classes: Sequence[int] = ()) -> list[Recovered]:
    """The triggers of a scan: of the flagged classes, or of those that are named.

    Raises:
        BadInput: not a scan, no class flagged, or no trigger for a named class.
    """
    if not isinstance(found, FlaggedClasses):
        raise BadInput(f"A saved scan is needed here (found). Received: {type(found).__name__}")
    wanted = list(classes) or [int(c) for c in np.flatnonzero(found.flagged)]
    if not wanted:
        raise BadInput("The scan flags no class: name those to work on with --set classes=A:B.")
    without = [c for c in wanted if c not in found.triggers]
    if without:
        raise BadInput(f"The scan has no trigger for class {', '.join(map(str, without))}.")
    return [Recovered(c, found.triggers[c], found.source.get(c)) for c in wanted]


def labels_of(model: Classifier, samples: Samples) -> np.ndarray:
    """The labels; of images without labels, what the model answers."""
    return model.predict(samples) if samples.labels is None else samples.labels


def success(model: Classifier, samples: Samples, triggers: Sequence[Recovered]) -> Rate:
    """The largest success of the triggers, each on the images that it serves."""
    labels = labels_of(model, samples)
    rates = []
    for trigger in triggers:
        served = trigger.served(labels)
        answers = model.predict(samples.rows(served).stamped(trigger.stamp))
        rates.append(attack_success_rate(answers, labels[served], trigger.target))
    return max(rates, key=float)


def hold_out(clean: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """(working part, held-out part), by track where the images have tracks."""
    parts: tuple[Samples, Samples] = clean.split(
        share, seed=seed, by_track=clean.track is not None and clean.labels is not None
    )
    return parts
