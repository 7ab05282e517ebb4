"""What the mitigations of Neural Cleanse share: recovered triggers and how well they still work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._inversion import Inverter
from keras_backdoor.defenses._rows import pool
from keras_backdoor.defenses._schedule import Schedule
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp

IMAGES = 1000
"""Most clean images that a trigger is searched anew on."""
STRENGTHS = (1.0, 4.0)
"""Of triggers put together. These, and the half below, were fixed on the development zoo."""
SMALL = 0.5
"""Share of the usual norm below which a trigger that is found anew is unlearned too."""


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


def usual_norm(found: Answer | None) -> float:
    """The median norm of a scan's triggers; NaN where it does not tell."""
    if found is None:
        return float("nan")
    known = found.about.get("median_norm")
    return float("nan") if known is None else float(known)


def search_again(
    model: Classifier,
    samples: Samples,
    trigger: Recovered,
    schedule: Schedule,
    *,
    searches: int,
    below: float,
    seed: int,
) -> tuple[list[Recovered], float]:
    """More triggers of the same class, each from a start of its own.

    Args:
        model: as it is now.
        samples: clean images, of which at most 1,000 are used.
        trigger: whose class and source are searched for.
        schedule: of the search.
        searches: how many.
        below: only those with a smaller norm are returned.
        seed: of the starts and images.

    Returns:
        (triggers, smallest norm that was found; inf where nothing works).
    """
    served = samples.rows(trigger.served(labels_of(model, samples)))
    inverter = Inverter(model, pool(model, served, IMAGES, seed), schedule)
    targets = np.full(searches, trigger.target)
    found = inverter.search(targets, seed=seed, starts=1, label="triggers again")
    made = zip(found.masks, found.patterns, found.norms, strict=True)
    again = [replace(trigger, stamp=Stamp(m, p)) for m, p, norm in made if norm < below]
    return again, float(found.norms.min())


def together(triggers: Sequence[Recovered], strength: float) -> Recovered:
    """Triggers of one class on top of one another, as one.

    The mask is 1 - prod(1 - m_i) with m_i = min(1, strength * mask_i), the pattern the mean of
    theirs, weighted by m_i. A search finds a small part of what was planted, another search
    another part; together they come nearer to the whole.
    """
    masks = np.stack([np.minimum(1.0, strength * t.stamp.mask) for t in triggers])
    patterns = np.stack([t.stamp.pattern for t in triggers])
    mask = 1.0 - np.prod(1.0 - masks, axis=0)
    pattern = (masks * patterns).sum(axis=0) / np.maximum(masks.sum(axis=0), 1e-6)
    stamp = Stamp(mask.astype(np.float32), pattern.astype(np.float32))
    return replace(triggers[0], stamp=stamp)


def hold_out(clean: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """(working part, held-out part), by track where the images have tracks."""
    parts: tuple[Samples, Samples] = clean.split(
        share, seed=seed, by_track=clean.track is not None and clean.labels is not None
    )
    return parts
