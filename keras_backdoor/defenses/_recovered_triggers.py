"""The recovered triggers of a scan: their images, their success and their refinement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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

TOLERATED = 0.02
"""The largest success of the recovered triggers of a repair that is not inconclusive."""
IMAGES = 1000
"""The largest number of clean images that a search for more triggers uses."""


@dataclass(frozen=True, eq=False)
class RecoveredTrigger:
    """A trigger that a scan recovered.

    Attributes:
        target: the target class.
        stamp: the trigger.
        source: the source class whose images the trigger works on, or None for all classes.
    """

    target: int
    stamp: Stamp
    source: int | None = None

    def applies_to(self, labels: np.ndarray) -> np.ndarray:
        """Select the images that the trigger should work on, which are never those of its target.

        Args:
            labels: (n,) the labels of the images.

        Returns:
            (n,) bool, whether each image is selected.

        Raises:
            BadInput: no image is selected.
        """
        chosen = labels != self.target if self.source is None else labels == self.source
        if not chosen.any():
            what = "of a class other than" if self.source is None else "of source class"
            number = self.target if self.source is None else self.source
            raise BadInput(
                f"The clean images have none {what} {number}, which the trigger of class "
                f"{self.target} needs: give clean images of more classes."
            )
        return chosen


@dataclass(frozen=True)
class Refinement:
    """Search for more triggers of a class.

    The trigger of the scan may be a small part of the planted trigger. The default settings, except
    `searches`, were selected on the development zoo (`results/README.md`).

    Args:
        searches: the number of searches from different starts, each of which recovers one trigger.
            With 0, only the trigger of the scan is used.
        steps: the largest number of steps of a search. By default as in a scan: 80 for images of up
            to 32x32 pixels, and up to 240 for larger images.
        norm_ratio: the share of the median norm of the scan below which a trigger is used.
        strengths: the factors that the masks are multiplied by when the triggers of a class are
            combined. Each factor adds one combined trigger, see `combine`.
    """

    searches: int = 16
    steps: int | None = None
    norm_ratio: float = 0.75
    strengths: tuple[float, ...] = (1.0, 4.0)

    def __post_init__(self) -> None:
        if self.searches < 0 or self.norm_ratio <= 0 or min(self.strengths, default=1.0) <= 0:
            raise BadInput(
                "searches must be 0 or more, norm_ratio and strengths must be above 0. Received: "
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
        """Search for more triggers of the same class from different starts.

        Args:
            model: the model to search, which may differ from the scanned one.
            samples: the clean images, of which at most 1,000 are used.
            trigger: the recovered trigger, whose target and source class are searched.
            median_norm: the median norm of the scan. If it is not finite, nothing is searched.
            seed: the seed of the starts and of the images.

        Returns:
            (triggers, norm): the triggers with a small norm, and the smallest norm of all searches,
            which is inf if no trigger works or nothing is searched.
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
        """Combine the triggers of one class once for each strength; empty if `searches` is 0."""
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
    """The recovered triggers of the flagged classes of a scan, or of the given classes.

    Args:
        scan: the answer of the scan.
        model: the model that the triggers are used on.
        classes: the target classes; none selects the flagged classes.

    Returns:
        The triggers, one for each class.

    Raises:
        BadInput: no class is flagged, a class has no trigger, or the scan does not fit the model.
    """
    wanted = list(classes) or [int(c) for c in np.flatnonzero(scan.flagged)]
    if not wanted:
        raise BadInput("The scan flags no class: name those to treat with --set classes=A:B.")
    without = [c for c in wanted if c not in scan.triggers]
    if without:
        raise BadInput(f"The scan has no trigger for class {', '.join(map(str, without))}.")
    stamp = scan.triggers[wanted[0]]
    shape = stamp.pattern.shape
    if max(wanted) >= model.classes or not model.fits(Samples(stamp.pattern[None])):
        raise BadInput(
            f"The scan is of another model: it has a trigger for class {max(wanted)} and images of "
            f"{shape}, but this one has {model.classes} classes and images of "
            f"{tuple(model.image_shape)}."
        )
    return [RecoveredTrigger(c, scan.triggers[c], scan.source.get(c)) for c in wanted]


def flagged_triggers(scan: Any, model: Classifier) -> list[RecoveredTrigger]:
    """The recovered triggers of the flagged classes; empty without a scan that has one."""
    if not isinstance(scan, FlaggedClasses):
        return []
    known = [c for c in np.flatnonzero(scan.flagged).tolist() if c in scan.triggers]
    return triggers_of(scan, model, known) if known else []


def scan_notes(
    evidence: Evidence, scan: FlaggedClasses, triggers: Sequence[RecoveredTrigger]
) -> dict[str, str]:
    """Summary rows for suspects that are not treated and for a scan of another model."""
    lines = dict[str, str]()
    treated = {t.target for t in triggers}
    if left := [c for c in np.flatnonzero(scan.suspects).tolist() if c not in treated]:
        every = ":".join(map(str, sorted(treated | set(left))))
        lines["further suspects, not treated"] = (
            f"{', '.join(map(str, left))}; to treat them too, repeat the command with --set "
            f"classes={every}"
        )
    scanned = scan.about.get("model_sha256")
    if scanned and scanned != evidence.model.sha256():
        lines["note"] = "the scan is of a model with other weights"
    return lines


def success(model: Classifier, samples: Samples, triggers: Sequence[RecoveredTrigger]) -> Rate:
    """The largest attack success rate of the triggers, each on the images that it applies to."""
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
    """The increase of the mean activations of a layer when images are stamped.

    Wang et al., Neural Cleanse, S&P 2019, rank neurons by the largest gap.

    Args:
        model: the network.
        images: the images that the triggers work on.
        stamps: the k triggers.
        layer: the layer whose mean activations are compared.

    Returns:
        (k, channels) mean activation with each trigger minus that without a trigger.
    """
    before = mean_activation(model, images, layer)
    return np.stack([mean_activation(model, images.stamped(s), layer) - before for s in stamps])


def median_norm(scan: FlaggedClasses) -> float:
    """The median norm of the triggers of a scan; NaN if it is unknown."""
    median = scan.about.get("median_norm")
    if median is None and "l1_norm" in scan.measures:
        median = np.nanmedian(scan.measures["l1_norm"])
    return float("nan") if median is None else float(median)


def combine(triggers: Sequence[RecoveredTrigger], strength: float) -> RecoveredTrigger:
    """Combine the triggers of one class into one trigger.

    The mask is 1 - prod(1 - m_i) with m_i = min(1, strength * mask_i), and the pattern is the mean
    of the patterns weighted by m_i. Different searches recover different parts of the planted
    trigger, so the combination is closer to it than any single trigger.

    Args:
        triggers: the triggers.
        strength: the factor of the masks.

    Returns:
        The combined trigger, with the target and the source of the first trigger.
    """
    masks = np.stack([np.minimum(1.0, strength * t.stamp.mask) for t in triggers])
    patterns = np.stack([t.stamp.pattern for t in triggers])
    mask = 1.0 - np.prod(1.0 - masks, axis=0)
    pattern = (masks * patterns).sum(axis=0) / np.maximum(masks.sum(axis=0), 1e-6)
    stamp = Stamp(mask.astype(np.float32), pattern.astype(np.float32))
    return replace(triggers[0], stamp=stamp)


def hold_out(clean: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split clean images into a working part and a held-out part.

    Labeled images that have tracks are split by track.

    Args:
        clean: the clean images.
        share: the share of the held-out part.
        seed: the seed of the split.

    Returns:
        (working part, held-out part).

    Raises:
        BadInput: there are too few images.
    """
    by_track = clean.track is not None and clean.labels is not None
    try:
        parts: tuple[Samples, Samples] = clean.split(share, seed=seed, by_track=by_track)
    except BadInput as error:
        what = "the tracks of a class" if by_track else "the images"
        raise BadInput(
            f"{len(clean)} clean images are too few to hold out {share:.0%} of {what}: give more."
        ) from error
    return parts


def hold_out_spare(clean: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split clean images into a working part and a held-out part that the classes can spare.

    Of labeled images that have tracks, whole recordings are held out, at most a third of those of
    each class. With few recordings a class would otherwise lose half of them.

    Args:
        clean: the clean images.
        share: the share of the recordings, or of the images without tracks or labels.
        seed: the seed of the split.

    Returns:
        (working part, held-out part).

    Raises:
        BadInput: there are too few images.
    """
    if clean.track is None or clean.labels is None:
        return hold_out(clean, share, seed)
    recordings, member = np.unique(
        np.stack([clean.labels, clean.track]), axis=1, return_inverse=True
    )
    classes = recordings[0]
    room = np.bincount(classes) // 3
    wanted = max(1, round(share * len(classes)))
    chosen: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(classes)):
        if room[classes[number]] and len(chosen) < wanted:
            room[classes[number]] -= 1
            chosen.append(number)
    if not chosen:
        return hold_out(replace(clean, track=None), share, seed)
    held = np.isin(member.reshape(-1), chosen)
    return clean.subset(~held), clean.subset(held)
