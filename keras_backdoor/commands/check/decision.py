"""The decision of a check, and its reasons."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.commands.check.steps import Checked
from keras_backdoor.defenses._repair import NO_SCAN, NO_TRIGGER
from keras_backdoor.defenses.neural_cleanse.scan import MIN_CLASSES
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.reports import sentences

Verdict = Literal["found", "nothing", "inconclusive"]
DEPLOY, REPAIRED, REFUSE, OPEN = (
    "deploy the model", "deploy the repaired model", "do not deploy", "no decision yet",
)  # fmt: skip
LEFT = 0.01
"""The largest success of a trigger on the repaired model that is accepted, beyond the share of the
images that the model assigns to the target without the trigger.

It holds for flagged and suspected classes, but not for suspected ones of a network that was trained
anew: it has never seen the poison, and marks move many images in clean networks, too (`study
scans-given`). The second scan then says whether a class is still suspicious."""
LOST = 0.01
"""The largest loss of clean accuracy that is accepted."""
DISAGREED = 0.05
"""The largest share of unlabeled images that a repaired model may answer otherwise."""
KEPT = 0.1
"""The largest share of the flagged training images that may get their label after a repair."""
FEWEST = 100
"""The smallest number of images on which a trigger and the accuracy are measured."""

AUDIT_IT = "audit the training data (--train)"


@dataclass(frozen=True)
class Decision:
    """What to do with a model.

    Attributes:
        verdict: what was found in the given model.
        action: `DEPLOY`, `REPAIRED`, `REFUSE` or `OPEN`.
        reasons: sentences.
    """

    verdict: Verdict
    action: str
    reasons: tuple[str, ...]

    @property
    def tone(self) -> str:
        """The tone of the page."""
        return {DEPLOY: "unsure", REPAIRED: "good", REFUSE: "bad", OPEN: "unsure"}[self.action]

    def __str__(self) -> str:
        return f"{self.action[:1].upper()}{self.action[1:]}."


def of_hostile(inspection: Inspection) -> Decision:
    """The decision on a file that must not be opened."""
    return Decision(
        "found", REFUSE, tuple(f"The file is hostile: {t}" for _, t in inspection.findings)
    )


def decide(checked: Checked) -> Decision:
    """The decision that follows from the steps."""
    examined = [a for a in (checked.audit, checked.scan) if a is not None]
    said = [_said(answer) for answer in examined]
    if checked.found:
        if checked.repair is None:
            return Decision("found", REFUSE, (*said, "A quick check repairs nothing."))
        against = _against(checked)
        action = REFUSE if against else REPAIRED
        return Decision("found", action, (*said, *(against or _for(checked))))
    undecided = any(answer.verdict == "inconclusive" for answer in examined)
    verdict: Verdict = "inconclusive" if undecided else "nothing"
    if checked.repair is not None:
        against = _against(checked)
        if checked.audit is not None and checked.audit.verdict == "inconclusive":
            against.append("The training data has not been audited with a decision.")
        if against:
            return Decision("inconclusive", OPEN, (*said, *against))
        return Decision(verdict, REPAIRED, (*said, *_for(checked)))
    said.append(_accuracy(checked))
    if checked.given.quick:
        said.append("A quick check is no reason to deploy a model: run it without --quick.")
        undecided = True
    elif undecided:
        said.append(_ways(checked))
    if undecided or checked.at_chance:
        return Decision("inconclusive", OPEN, tuple(said))
    seen = "Backdoors of one source class, and those that few images planted, are often missed"
    advice = AUDIT_IT if checked.audit is None else "repair it (--repair)"
    return Decision("nothing", DEPLOY, (*said, f"{seen}: to be surer, {advice}."))


def _ways(checked: Checked) -> str:
    """What may lead to a decision where the scan or the audit has none."""
    assert checked.scan is not None
    ways = [] if checked.audit else [AUDIT_IT]
    known = np.isin(np.arange(len(checked.scan.scores)), list(checked.scan.triggers))
    unknown = checked.scan.suspects & ~known
    if not unknown.any() and checked.given.model.true_classes >= MIN_CLASSES:
        ways.insert(0, "repair the model in any case (--repair)")
    if ways:
        return f"For a decision, {', or '.join(ways)}."
    if unknown.any():
        return (
            f"No trigger of class {listed(unknown)} is known, so that no repair could be measured: "
            "there is no way to a decision here."
        )
    return "Two classes are too few for a scan: there is no way to a decision here."


def _said(answer: Any) -> str:
    """What an answer says, as a sentence with its kind."""
    kind = "Scan" if isinstance(answer, FlaggedClasses) else "Audit"
    text = sentences.headline(answer)[1].removeprefix("Do not deploy: ")
    return f"{kind}: {text.removesuffix(sentences.incomplete(answer))}"


def _accuracy(checked: Checked) -> str:
    """The accuracy of the given model, as a sentence."""
    if checked.accuracy is None or checked.accuracy[0] is None:
        return "The accuracy was not measured: pass labeled test images (--test)."
    text = f"The model is right on {checked.accuracy[0]:.1%} of {checked.measured_on}"
    if checked.at_chance:
        return (
            f"{text}, which is no better than guessing: its pixels have another range "
            "(--preprocess), or the labels are those of other classes."
        )
    if checked.accuracy[0].of < FEWEST:
        return f"{text}, which are too few for an accuracy: {FEWEST} are enough."
    return f"{text}."


def _against(checked: Checked) -> list[str]:
    """Why the repaired model is not to be deployed."""
    repair, again = checked.repair, checked.again
    assert repair is not None and again is not None
    reasons = []
    if repair.inconclusive not in ("", NO_SCAN, NO_TRIGGER):
        reasons.append(f"Repair: {repair.inconclusive}.")
    advice = "" if checked.audit else f": {AUDIT_IT}"
    reasons += [
        f"No trigger of class {number} is known, so that it could not be measured whether the "
        f"backdoor is gone{advice}."
        for number in np.flatnonzero(_accused(checked)).tolist()
        if number not in checked.attacks and not checked.trained_anew
    ]
    reasons += [*_against_triggers(checked), *_against_accuracy(checked)]
    if again.verdict == "found":
        reasons.append(f"The scan of the repaired model flags class {listed(again.flagged)}.")
    elif again.verdict == "inconclusive":
        reasons.append(f"The scan of the repaired model gives no decision: {again.inconclusive}.")
    return reasons


def _against_triggers(checked: Checked) -> list[str]:
    """Why the repaired model may still have the backdoor, by triggers and flagged images."""
    reasons = []
    for number, attack in checked.attacks.items():
        if attack.after is None or not attack.after.of:
            reasons.append(f"The trigger of class {number} could not be measured after the repair.")
        elif attack.after.of < FEWEST:
            reasons.append(
                f"The trigger of class {number} was measured on only {attack.after.of} images of "
                f"other classes: pass test images (--test), of which {FEWEST} are enough."
            )
        elif _measured_by_success(checked, number) and (
            float(attack.after) - float(attack.anyway or 0.0) > LEFT
        ):
            reasons.append(
                f"The trigger of class {number} still works on {attack.after:.1%} of the images."
            )
    if checked.kept is not None and float(checked.kept[1]) > KEPT:
        reasons.append(
            f"{checked.kept[1]:.0%} of the {checked.kept[1].of:,} flagged training images still "
            "get their label: the backdoor is left, or they show that class."
        )
    return reasons


def _measured_by_success(checked: Checked, number: int) -> bool:
    """Whether the trigger of a class must no longer work; otherwise the second scan decides."""
    assert checked.scan is not None
    return bool(checked.scan.flagged[number]) or not checked.trained_anew


def _against_accuracy(checked: Checked) -> list[str]:
    """Why the repaired model may answer worse than the given one."""
    reasons = []
    before, after = checked.accuracy or (None, None)
    if after is None or not after.of:
        reasons.append("The repair was not measured: pass labeled test images (--test).")
    elif after.of < FEWEST:
        reasons.append(
            f"The repair was measured on only {after.of} images: pass labeled test images "
            f"(--test), of which {FEWEST} are enough."
        )
    elif checked.agreement and 1 - float(after) > DISAGREED:
        reasons.append(
            f"The repaired model agrees with the given one on only {after:.1%} of "
            f"{checked.measured_on}: pass labeled test images (--test)."
        )
    elif before is not None and (lost := float(before) - float(after)) > LOST:
        reasons.append(
            f"The repair costs {100 * lost:.1f} points of accuracy on {checked.measured_on}."
        )
    if checked.at_chance:
        reasons.append(_accuracy(checked))
    return reasons


def _accused(checked: Checked) -> np.ndarray:
    """(k,) bool, the classes whose backdoor the repair has to remove."""
    scan = checked.scan
    assert scan is not None
    return scan.flagged if checked.found else scan.flagged | scan.suspects


def _for(checked: Checked) -> list[str]:
    """What speaks for the repaired model."""
    reasons = [
        f"The trigger of class {number} works on {attack.after:.1%} of the images after the "
        f"repair, {attack.before:.1%} before ({attack.before.of:,} of {attack.on})."
        for number, attack in checked.attacks.items()
    ]
    if not checked.attacks:
        reasons.append(
            "No trigger is known, so that it could not be measured whether one still works."
        )
    if checked.kept is not None:
        before, after = checked.kept
        reasons.append(
            f"{after:.0%} of the {after.of:,} flagged training images get their label after the "
            f"repair, {before:.0%} before."
        )
    assert checked.accuracy is not None
    first, second = checked.accuracy
    what = "agrees with the given one" if checked.agreement else "is right"
    given = "" if first is None else f", {first:.1%} before"
    reasons.append(f"The repaired model {what} on {second:.1%} of {checked.measured_on}{given}.")
    return [*reasons, "The scan of the repaired model flags nothing."]
