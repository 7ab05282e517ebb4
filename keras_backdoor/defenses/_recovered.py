"""What the mitigations of Neural Cleanse share: recovered triggers and how well they still work."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.neural_cleanse.rows import labels_of, pool
from keras_backdoor.defenses.neural_cleanse.schedule import CostSchedule, Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.network.activations import mean_activation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp

IMAGES = 1000
"""Most clean images that a trigger is searched anew on."""


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
                f"The images that are used hold none {what} {number}, which the trigger of class "
                f"{self.target} would serve."
            )
        return chosen


@dataclass(frozen=True)
class Again(CostSchedule):
    """Search the trigger of a class anew, as the scan's may be a small part of the planted one.

    The settings but `searches` were fixed on the development zoo (`results/README.md`).

    Args:
        searches: starts of the search, one a trigger; 0 keeps to the trigger of the scan.
        small: share of the scan's median norm below which a trigger that is found counts.
        strengths: of the triggers that are put on top of one another, see `together`.
    """

    steps: int | None = None
    learning_rate: float = 0.3
    patience: int = 3
    early_stop_patience: int = 15
    searches: int = 16
    small: float = 0.75
    strengths: tuple[float, ...] = (1.0, 4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searches < 0 or self.small <= 0 or min(self.strengths, default=1.0) <= 0:
            raise BadInput("searches must be 0 or more, small and strengths above 0.")

    def find(
        self, model: Classifier, samples: Samples, trigger: Recovered, *, usual: float, seed: int
    ) -> tuple[list[Recovered], float]:
        """More triggers of the same class, each from a start of its own.

        Args:
            model: as it is now.
            samples: clean images, of which at most 1,000 are used.
            trigger: whose class and source are searched for.
            usual: the scan's median norm; where it is not finite nothing is searched.
            seed: of the starts and images.

        Returns:
            (the small ones, the smallest norm that was found; inf where nothing works or nothing
            is searched).
        """
        if not self.searches or not np.isfinite(usual):
            return [], float("inf")
        served = samples.rows(trigger.served(labels_of(model, samples)))
        known = {f.name: getattr(self, f.name) for f in fields(CostSchedule)}
        inverter = Inverter(model, pool(model, served, IMAGES, seed), Schedule(**known, starts=1))
        targets = np.full(self.searches, trigger.target)
        found = inverter.search(targets, seed=seed, label="triggers again")
        made = zip(found.masks, found.patterns, found.norms, strict=True)
        again = [
            replace(trigger, stamp=Stamp(mask, pattern))
            for mask, pattern, norm in made
            if norm < self.small * usual
        ]
        return again, float(found.norms.min())

    def piled(self, triggers: Sequence[Recovered]) -> list[Recovered]:
        """Triggers of one class on top of one another, once for each strength.

        None where nothing is searched.
        """
        if not self.searches:
            return []
        return [
            together(triggers, strength)
            for strength in self.strengths
            if len(triggers) > 1 or strength != 1
        ]


def recovered(
    found: Answer | None, model: Classifier, classes: Sequence[int] = ()
) -> list[Recovered]:
    """The triggers of a scan: of the flagged classes, or of those that are named.

    Raises:
        BadInput: not a scan, no class flagged, no trigger for a named class, or a scan of a model
            with other images or more classes.
    """
    if not isinstance(found, FlaggedClasses):
        raise BadInput(f"A saved scan is needed here (found). Received: {type(found).__name__}")
    wanted = list(classes) or [int(c) for c in np.flatnonzero(found.flagged)]
    if not wanted:
        raise BadInput("The scan flags no class: name those to work on with --set classes=A:B.")
    without = [c for c in wanted if c not in found.triggers]
    if without:
        raise BadInput(f"The scan has no trigger for class {', '.join(map(str, without))}.")
    stamp = found.triggers[wanted[0]]
    shape = stamp.pattern.shape
    if max(wanted) >= model.classes or not model.fits(Samples(stamp.pattern[None])):
        raise BadInput(
            f"The scan is of another model: it names class {max(wanted)} and images of {shape}; "
            f"this one has {model.classes} classes and images of {tuple(model.image_shape)}."
        )
    return [Recovered(c, found.triggers[c], found.source.get(c)) for c in wanted]


def notes(evidence: Evidence, triggers: Sequence[Recovered]) -> dict[str, str]:
    """Lines on suspects of the scan that are left alone, and on a scan of another file."""
    found, lines = evidence.found, dict[str, str]()
    if not isinstance(found, FlaggedClasses):
        return lines
    treated = {t.target for t in triggers}
    suspects = [] if found.further is None else np.flatnonzero(found.further).tolist()
    if left := [c for c in suspects if c not in treated]:
        every = ":".join(map(str, sorted(treated | set(left))))
        lines["further suspects, not treated"] = f"{', '.join(map(str, left))} (classes={every})"
    scanned = found.about.get("model_sha256")
    if scanned and scanned != evidence.model.sha256():
        lines["note"] = "the scan is of a model with other weights"
    return lines


def success(model: Classifier, samples: Samples, triggers: Sequence[Recovered]) -> Rate:
    """The largest success of the triggers, each on the images that it serves."""
    labels = labels_of(model, samples)
    rates = []
    for trigger in triggers:
        served = trigger.served(labels)
        answers = model.predict(samples.rows(served).stamped(trigger.stamp))
        rates.append(attack_success_rate(answers, labels[served], trigger.target))
    return max(rates, key=float)


def activation_gaps(
    model: Classifier, images: Samples, stamps: Sequence[Stamp], place: str
) -> np.ndarray:
    """(k, channels): how much more the images activate a layer with each stamp than without.

    The paper's order of neurons is that of the largest gap.

    Args:
        model: the network.
        images: that the trigger serves.
        stamps: k triggers.
        place: the layer whose mean activations are compared.
    """
    before = mean_activation(model, images, place)
    return np.stack([mean_activation(model, images.stamped(s), place) - before for s in stamps])


def usual_norm(found: Answer | None) -> float:
    """The median norm of a scan's triggers; NaN where it does not tell."""
    if not isinstance(found, FlaggedClasses):
        return float("nan")
    known = found.about.get("median_norm")
    if known is None and "l1_norm" in found.measures:
        known = np.nanmedian(found.measures["l1_norm"])
    return float("nan") if known is None else float(known)


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
    by_track = clean.track is not None and clean.labels is not None
    try:
        parts: tuple[Samples, Samples] = clean.split(share, seed=seed, by_track=by_track)
    except BadInput as error:
        what = "the tracks of a class" if by_track else "the images"
        raise BadInput(
            f"{len(clean)} clean images are too few to hold out {share:.0%} of {what}."
        ) from error
    return parts
