"""The base class of repairs, which measures whether the triggers of a scan still work."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.defenses._recovered_triggers import (
    TOLERATED,
    RecoveredTrigger,
    hold_out,
    success,
    triggers_of,
)
from keras_backdoor.defenses.base import Defense, Evidence
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, clean_accuracy
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

NO_SCAN = (
    "no scan was given, so it was not measured whether a backdoor is gone: scan the model, and "
    "give the answer of the scan to the repair as 'found'"
)
NO_TRIGGER = (
    "the scan found no trigger, so it was not measured whether a backdoor that it does not see is "
    "gone"
)


HOLDOUT = 0.2
"""The share of the clean images that a repair is measured on."""
FEWEST, ENOUGH, SEEN = 10, 30, 1 / 2
"""The number of clean images below which a repair is refused, and below which it is inconclusive;
the clean images have to show more than this share of the classes."""


@dataclass(frozen=True)
class Repair(Defense[RepairedModel]):
    """A method that returns a repaired model or a guard, and measures it.

    A subclass implements `compute`. If an earlier answer is given as `found`, a share of the clean
    images is held out from `compute`. On these images the recovered triggers and the accuracy are
    measured before and after. The answer is inconclusive if a trigger still works, or if there was
    nothing to measure.

    Attributes:
        measured_on: the clean images that the repair is measured on. `held out` keeps those of
            `parts` from `compute`; `own` are the same, which `compute` holds out itself; `all` are
            all clean images.
    """

    measured_on: ClassVar[Literal["held out", "own", "all"]] = "held out"

    def parts(self, clean: Samples) -> tuple[Samples, Samples]:
        """Split the clean images into a working part and a held-out part."""
        return hold_out(clean, HOLDOUT, 0)

    @abstractmethod
    def compute(self, evidence: Evidence) -> RepairedModel:
        """Repair the examined model; see `Method.run`."""

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Method.run`."""
        if evidence.nested:
            return self.compute(evidence)
        warnings, lacking = check_clean(evidence)
        scan, clean = evidence.get("found"), evidence.clean
        working, held, where = clean, clean, "the clean images"
        if self.measured_on == "own" or (self.measured_on == "held out" and scan is not None):
            working, held = self.parts(clean)
        if held is not clean:
            where = f"the {len(held)} held-out images"
        own = self.measured_on == "own"
        answer = self.compute(evidence if own else evidence.replaced("clean", working))
        classes = getattr(self, "classes", ())
        found = check_repair(evidence.model, answer.classifier, held, scan, where, classes)
        summary = {**answer.summary, **found.rows, **warnings}
        reason = answer.inconclusive or lacking or found.reason
        figures = {**answer.figures, **found.figures}
        return replace(answer, summary=summary, figures=figures, inconclusive=reason)


def check_clean(evidence: Evidence) -> tuple[dict[str, str], str]:
    """Check that the clean images of a repair are enough.

    The limits were chosen on the development zoo (`results/images_needed.json`).

    Returns:
        (rows, reason): a row with the classes that have no clean image, if there are any, and why
        the repair is inconclusive, or an empty string.

    Raises:
        BadInput: there are fewer than `FEWEST` images, or they show a single class.
    """
    model, clean = evidence.model, evidence.clean
    seen, classes = np.unique(labels_of(model, clean)), model.true_classes
    if len(clean) < FEWEST or len(seen) < min(2, classes):
        raise BadInput(
            f"{len(clean)} clean image{'' if len(clean) == 1 else 's'} of {len(seen)} "
            f"class{'' if len(seen) == 1 else 'es'} are too few for a repair, which would lose the "
            f"other classes: give at least {ENOUGH} images, with some of every class."
        )
    missing = np.setdiff1d(np.arange(classes), seen)
    rows = {}
    if len(missing):
        shown = ", ".join(map(str, missing[:20])) + (", …" if len(missing) > 20 else "")
        rows["warning, classes without a clean image"] = f"{shown}: they may have been lost"
    if len(clean) < ENOUGH or len(seen) <= SEEN * classes:
        return rows, (
            f"{len(clean)} clean images of {len(seen)} of {classes} classes are too few to tell "
            "what the repair has lost"
        )
    return rows, ""


@dataclass(frozen=True)
class RepairCheck:
    """What was measured of a repair.

    Attributes:
        rows: the rows of the printed table.
        figures: the numbers by name.
        reason: why the repair is inconclusive; empty if the triggers no longer work.
    """

    rows: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def check_repair(
    before: Classifier,
    after: Classifier,
    held: Samples,
    scan: Any,
    where: str,
    classes: tuple[int, ...] = (),
) -> RepairCheck:
    """Measure the triggers of a scan and the accuracy before and after a repair.

    Args:
        before: the examined model.
        after: the repaired model or guard.
        held: clean images; without labels, the predictions of `before` take their place.
        scan: the answer of a scan, or None.
        where: a description of the images, for the rows.
        classes: classes whose triggers are measured beside those that the scan flags or suspects.
    """
    rows, figures = _accuracy(before, after, held, where)
    if not isinstance(scan, FlaggedClasses):
        return RepairCheck(rows, figures, NO_SCAN)
    chosen = {*np.flatnonzero(scan.flagged | scan.suspects).tolist(), *classes}
    known = [c for c in sorted(chosen) if c in scan.triggers]
    if not known:
        return RepairCheck(rows, figures, NO_TRIGGER)
    working: list[str] = []
    figures["recovered_triggers"] = {}
    for trigger in triggers_of(scan, before, known):
        rates = _rates(before, after, held, trigger)
        name = f"trigger of class {trigger.target}"
        if rates is None:
            rows[name] = f"not measured: {where} have none of its source class"
            working.append(f"that of class {trigger.target} could not be measured")
            continue
        standing = "" if scan.flagged[trigger.target] else ", a further suspect"
        rows[f"{name}{standing}"] = f"{rates[0]:.2%} -> {rates[1]:.2%} of {rates[1].of} images"
        figures["recovered_triggers"][str(trigger.target)] = {
            "before": rates[0].as_dict(), "after": rates[1].as_dict(),
        }  # fmt: skip
        if float(rates[1]) > TOLERATED:
            working.append(
                f"that of class {trigger.target} still works on {rates[1]:.1%} of the images"
            )
    reason = f"of the recovered triggers, {'; '.join(working)}" if working else ""
    return RepairCheck(rows, figures, reason)


def _rates(
    before: Classifier, after: Classifier, held: Samples, trigger: RecoveredTrigger
) -> tuple[Rate, Rate] | None:
    """The success of a trigger on both models, on images with the classes of the first."""
    labeled = held if held.labels is not None else held.labelled(labels_of(before, held))
    try:
        return success(before, labeled, [trigger]), success(after, labeled, [trigger])
    except BadInput:
        return None


def _accuracy(
    before: Classifier, after: Classifier, held: Samples, where: str
) -> tuple[dict[str, str], dict[str, Any]]:
    predicted, repaired = before.predict(held), after.predict(held)
    if held.labels is None:
        rate = clean_accuracy(repaired, predicted)
        text = f"{rate:.2%} (95 % interval {{:.1%}} to {{:.1%}})".format(*rate.interval())
        return {f"agreement with the examined model on {where}": text}, {
            "agreement": rate.as_dict()
        }
    rates = [clean_accuracy(p, held.labels) for p in (predicted, repaired)]
    low, high = rates[1].interval()
    text = f"{rates[0]:.2%} -> {rates[1]:.2%} (95 % interval {low:.1%} to {high:.1%})"
    return {f"accuracy on {where}": text}, {
        "accuracy_before": rates[0].as_dict(),
        "accuracy_after": rates[1].as_dict(),
    }
