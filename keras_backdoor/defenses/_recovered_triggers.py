"""The triggers that a scan recovered: which images they work on, how well, and their refinement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.neural_cleanse.images import draw_images, labels_of
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.network.activations import mean_activation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp

IMAGES = 1000
"""The largest number of clean images that a trigger is refined on."""


@dataclass(frozen=True, eq=False)
class RecoveredTrigger:
    """A trigger that a scan recovered.

    Attributes:
        target: the class that it leads to.
        stamp: the trigger.
        source: the one class whose images it works on, or None for all.
    """

    target: int
    stamp: Stamp
    source: int | None = None

    def applies_to(self, labels: np.ndarray) -> np.ndarray:
        """(n,) bool, the images that it is to work on: never those of its target.

        Raises:
            BadInput: there are none.
        """
        chosen = labels != self.target if self.source is None else labels == self.source
        if not chosen.any():
            what = "other than" if self.source is None else "of source class"
            number = self.target if self.source is None else self.source
            raise BadInput(
                f"The images that are used have none {what} {number}, which the trigger of class "
                f"{self.target} would work on."
            )
        return chosen


@dataclass(frozen=True)
class Refinement:
    """Search for more triggers of a class, as the scan's may be a small part of the planted one.

    The settings but `searches` were fixed on the development zoo (`results/README.md`).

    Args:
        searches: the number of searches from different starts, which give one trigger each; 0
            keeps to the trigger of the scan.
        steps: the largest number of steps of a search. By default that of a scan: 80 for images of
            up to 32x32 pixels, and up to 240 for larger ones.
        norm_ratio: the share of the scan's median norm below which a trigger counts.
        strengths: the factors of the masks with which the triggers of a class are combined into
            one more trigger each, see `combine`.
    """

    searches: int = 16
    steps: int | None = None
    norm_ratio: float = 0.75
    strengths: tuple[float, ...] = (1.0, 4.0)

    def __post_init__(self) -> None:
        if self.searches < 0 or self.norm_ratio <= 0 or min(self.strengths, default=1.0) <= 0:
            raise BadInput(
                "searches must be 0 or more, norm_ratio and strengths above 0. Received: "
                f"searches={self.searches}, norm_ratio={self.norm_ratio}, "
                f"strengths={self.strengths}"
            )

    def search(
        self,
        model: Classifier,
        samples: Samples,
        trigger: RecoveredTrigger,
        *,
        median_norm: float,
        seed: int,
    ) -> tuple[list[RecoveredTrigger], float]:
        """More triggers of the same class, each from a start of its own.

        Args:
            model: the model as it is now.
            samples: clean images, of which at most 1,000 are used.
            trigger: its class and its source are searched.
            median_norm: of the scan; where it is not finite nothing is searched.
            seed: of the starts and images.

        Returns:
            (the triggers that are small, the smallest norm of all; inf where none works or none is
            searched).
        """
        if not self.searches or not np.isfinite(median_norm):
            return [], float("inf")
        affected = samples.subset(trigger.applies_to(labels_of(model, samples)))
        plan = Schedule(steps=self.steps, starts=1)
        inverter = Inverter(model, draw_images(model, affected, IMAGES, seed), plan)
        targets = np.full(self.searches, trigger.target)
        inverted = inverter.search(targets, seed=seed, label="more triggers")
        candidates = zip(inverted.masks, inverted.patterns, inverted.norms, strict=True)
        small = [
            replace(trigger, stamp=Stamp(mask, pattern))
            for mask, pattern, norm in candidates
            if norm < self.norm_ratio * median_norm
        ]
        return small, float(inverted.norms.min())

    def combined(self, triggers: Sequence[RecoveredTrigger]) -> list[RecoveredTrigger]:
        """The triggers of one class combined, once for each strength; none without a search."""
        if not self.searches:
            return []
        return [
            combine(triggers, strength)
            for strength in self.strengths
            if len(triggers) > 1 or strength != 1
        ]


def triggers_of(
    scan: FlaggedClasses, model: Classifier, classes: Sequence[int] = ()
) -> list[RecoveredTrigger]:
    """The triggers of a scan: of the flagged classes, or of those that are named.

    Raises:
        BadInput: no class is flagged, a named class has no trigger, or the scan is of a model with
            other images or more classes.
    """
    wanted = list(classes) or [int(c) for c in np.flatnonzero(scan.flagged)]
    if not wanted:
        raise BadInput("The scan flags no class: name those to work on with --set classes=A:B.")
    without = [c for c in wanted if c not in scan.triggers]
    if without:
        raise BadInput(f"The scan has no trigger for class {', '.join(map(str, without))}.")
    stamp = scan.triggers[wanted[0]]
    shape = stamp.pattern.shape
    if max(wanted) >= model.classes or not model.fits(Samples(stamp.pattern[None])):
        raise BadInput(
            f"The scan is of another model: it names class {max(wanted)} and images of {shape}; "
            f"this one has {model.classes} classes and images of {tuple(model.image_shape)}."
        )
    return [RecoveredTrigger(c, scan.triggers[c], scan.source.get(c)) for c in wanted]


def scan_notes(
    evidence: Evidence, scan: FlaggedClasses, triggers: Sequence[RecoveredTrigger]
) -> dict[str, str]:
    """Lines on suspects of the scan that are not treated, and on a scan of another file."""
    lines = dict[str, str]()
    treated = {t.target for t in triggers}
    if left := [c for c in np.flatnonzero(scan.suspects).tolist() if c not in treated]:
        every = ":".join(map(str, sorted(treated | set(left))))
        lines["further suspects, not treated"] = f"{', '.join(map(str, left))} (classes={every})"
    scanned = scan.about.get("model_sha256")
    if scanned and scanned != evidence.model.sha256():
        lines["note"] = "the scan is of a model with other weights"
    return lines


def success(model: Classifier, samples: Samples, triggers: Sequence[RecoveredTrigger]) -> Rate:
    """The largest success of the triggers, each on the images that it is to work on."""
    labels = labels_of(model, samples)
    rates = []
    for trigger in triggers:
        affected = trigger.applies_to(labels)
        answers = model.predict(samples.subset(affected).stamped(trigger.stamp))
        rates.append(attack_success_rate(answers, labels[affected], trigger.target))
    return max(rates, key=float)


def activation_gaps(
    model: Classifier, images: Samples, stamps: Sequence[Stamp], layer: str
) -> np.ndarray:
    """(k, channels): how much more the images activate a layer with each stamp than without.

    The paper ranks neurons by the largest gap.

    Args:
        model: the network.
        images: that the trigger works on.
        stamps: k triggers.
        layer: the layer whose mean activations are compared.
    """
    before = mean_activation(model, images, layer)
    return np.stack([mean_activation(model, images.stamped(s), layer) - before for s in stamps])


def median_norm(scan: FlaggedClasses) -> float:
    """The median norm of a scan's triggers; NaN where it is not known."""
    known = scan.about.get("median_norm")
    if known is None and "l1_norm" in scan.measures:
        known = np.nanmedian(scan.measures["l1_norm"])
    return float("nan") if known is None else float(known)


def combine(triggers: Sequence[RecoveredTrigger], strength: float) -> RecoveredTrigger:
    """Triggers of one class on top of one another, as one trigger.

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
