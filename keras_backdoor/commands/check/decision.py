"""The decision of a check, and its reasons."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from keras_backdoor.commands.check.steps import LEFT, LOST, Checked
from keras_backdoor.metrics import Rate
from keras_backdoor.reports import sentences

Verdict = Literal["found", "nothing", "inconclusive"]
DEPLOY, REPAIRED, REFUSE, OPEN = (
    "deploy the model", "deploy the repaired model", "do not deploy", "no decision yet",
)  # fmt: skip


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


def decide(checked: Checked) -> Decision:
    """The decision that follows from the steps."""
    found = [_said(a) for a in (checked.audit, checked.scan) if a is not None]
    if not checked.found:
        return _nothing_found(checked, found)
    if checked.repair is None:
        return Decision("found", REFUSE, (*found, "The model was not repaired in a quick check."))
    against = tuple(_against(checked))
    if against:
        return Decision("found", REFUSE, (*found, *against))
    return Decision("found", REPAIRED, (*found, *_for(checked)))


def _nothing_found(checked: Checked, found: list[str]) -> Decision:
    scan = checked.scan
    assert scan is not None
    if checked.repair is not None:
        against = tuple(_against(checked))
        action = OPEN if against else REPAIRED
        return Decision(_verdict(scan.verdict), action, (*found, *(against or _for(checked))))
    if scan.verdict == "inconclusive":
        return Decision("inconclusive", OPEN, tuple(found))
    seen = "Backdoors of one source class, and those that few images planted, are often missed"
    advice = (
        "audit the training data (--train)" if checked.audit is None else "repair it (--repair)"
    )
    return Decision("nothing", DEPLOY, (*found, f"{seen}: to be surer, {advice}."))


def _verdict(text: str) -> Verdict:
    return "inconclusive" if text == "inconclusive" else "nothing"


def _said(answer: object) -> str:
    """What an answer says, as a sentence with its kind."""
    kind = "Scan" if type(answer).__name__ == "FlaggedClasses" else "Audit"
    text = sentences.headline(answer)[1].removeprefix("Do not deploy: ")
    return f"{kind}: {text}"


def _against(checked: Checked) -> list[str]:
    """Why the repaired model is not to be deployed."""
    repair, again = checked.repair, checked.again
    assert repair is not None
    reasons = []
    left = {c: after for c, (_, after) in checked.attacks.items() if after and after > LEFT}
    if left:
        text = ", ".join(f"class {c} on {rate:.1%}" for c, rate in left.items())
        reasons.append(f"Suspected triggers still work on the repaired model: {text}.")
    if (lost := lost_accuracy(checked)) is not None and lost > LOST:
        reasons.append(f"The repair costs {100 * lost:.1f} points of clean accuracy.")
    if repair.summary.get("decision", "").startswith("the model was left"):
        reasons.append(f"The model was left as it is: {repair.inconclusive}.")
    if again is not None and again.verdict == "found":
        classes = ", ".join(map(str, np.flatnonzero(again.flagged)))
        reasons.append(f"The scan of the repaired model flags class {classes}.")
    return reasons


def _for(checked: Checked) -> list[str]:
    """What speaks for the repaired model."""
    reasons = []
    for number, (before, after) in checked.attacks.items():
        if after is not None:
            reasons.append(
                f"The trigger of class {number} works on {after:.1%} of the images, {before:.1%} "
                "before."
            )
    if (lost := lost_accuracy(checked)) is not None:
        change = -100 * lost
        reasons.append(f"The clean accuracy changes by {change:+.1f} points.")
    elif checked.repair is not None:
        reasons.append("The accuracy was not measured: pass labeled test images (--test).")
    if checked.again is not None and checked.again.verdict != "found":
        reasons.append("The scan of the repaired model flags nothing.")
    return reasons


def lost_accuracy(checked: Checked) -> float | None:
    """The loss of clean accuracy by the repair, or None if it was not measured.

    A loss within the 95 % interval of the accuracy before counts in full: it is what is known.
    """
    if checked.before is None or checked.after is None:
        return None
    rates: list[Rate] = [e.clean_accuracy for e in (checked.before, checked.after)]
    return float(rates[0]) - float(rates[1])
