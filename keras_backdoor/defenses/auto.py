"""Auto: the repair that the evidence allows, measured, and left out where it would only do harm."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.defenses._recovered_triggers import (
    TOLERATED,
    flagged_triggers,
    success,
)
from keras_backdoor.defenses._repair import Repair, check_clean, check_repair
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.defenses.retrain import Retrain
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

ACCEPTED = 0.05
"""The loss of accuracy on the held-out images that needs a reason.

On networks of the development zoo that were repaired well, it is up to 0.022, although the accuracy
on other images rises: the held-out images may be among those that the network was trained on.
"""
UNTRUSTED = (
    "the repair used training images, which may contain poison that the audit did not flag, and "
    "its accuracy could only be measured on images that the examined network was trained on: give "
    "clean images"
)
TOUCHED = 0.5
"""A class that random triggers draw this share of all changed predictions to is a reason."""


@dataclass(frozen=True)
class Auto(Repair):
    """Repair a network with what the evidence allows, and say what was tried and why.

    With the training data, an audit comes first (`LabelDisagreement`, or the audit that is given as
    `found`). If it flags images, the network is trained again without them, and the result is kept
    unless it is less accurate by more than five points. A `reference` is the network that the
    training starts from, for a network that was fine-tuned. In all other cases:

    1. Trigger augmentation, with the recovered triggers of the scan if there is one. Without labels
       the network keeps its own answers on the clean images.
    2. If a recovered trigger still works on held-out images, the triggers of the scan are unlearned
       from the result.
    3. If the repair would cost accuracy and nothing speaks for a backdoor, neither a scan nor what
       random triggers do to the network, the network is left as it is.

    Without clean images, the training images that the audit does not flag take their place. Poison
    that it missed is then learned again, and the accuracy on training images says little: the
    answer is inconclusive, and step 3 is left out.

    Args:
        augmentation: the settings of the first step.
        unlearning: the settings of the second step.
        seed: the seed of the held-out images and of both steps.

    Notes:
        What is measured is the success of random and of recovered triggers. Only a known planted
        trigger can show that a backdoor is gone.
    """

    augmentation: TriggerAugmentation = field(default_factory=TriggerAugmentation)
    unlearning: Unlearning = field(default_factory=Unlearning)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (
        Need("clean", optional=True),
        Need("train", labelled=True, optional=True),
        Need("reference", optional=True),
    )
    measured_on: ClassVar[Any] = "own"
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    default_for: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "none: made for this project"
    quick: ClassVar[dict[str, Any]] = {
        "augmentation": TriggerAugmentation(**TriggerAugmentation.quick),
        "unlearning": Unlearning(**Unlearning.quick),
    }
    caveats: ClassVar[tuple[str, ...]] = TriggerAugmentation.caveats
    audit: ClassVar[LabelDisagreement] = LabelDisagreement()

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Method.run`."""
        train, clean = evidence.get("train"), evidence.get("clean")
        if train is None:
            if clean is None:
                raise BadInput(
                    "Auto needs clean (--clean on the command line) or the training data (--train)."
                )
            return super().run(evidence)
        check_no_guard(evidence.model)
        audit = evidence.get("found")
        if not isinstance(audit, FlaggedSamples):
            audit = evidence.run(replace(self.audit, seed=self.seed))
        where, own = "the clean images", evidence
        if clean is None:
            where = "the training images that the audit does not flag"
            own = evidence.replaced("clean", train.subset(~audit.flagged))
        tried = "an audit of the training data, which flags nothing"
        if audit.flagged.any():
            answer, tried = self._retrained(own, where, audit)
            if answer is not None:
                return answer
        if clean is None:
            return self._with_training_images(own, tried)
        answer = super().run(own)
        summary = {**answer.summary, "tried": f"{tried}; {answer.summary['tried']}"}
        return replace(answer, summary=summary)

    def _with_training_images(self, evidence: Evidence, tried: str) -> RepairedModel:
        """The repair with training images that were not flagged, which is never a decision.

        Args:
            evidence: the evidence of the run, with these images as the clean ones.
            tried: what was tried before.
        """
        warnings, lacking = check_clean(evidence)
        held = self.parts(evidence.clean)[1]
        answer = self._repaired(evidence, held, judged=False)
        where = f"{len(held)} of the training images"
        found = check_repair(evidence.model, answer.classifier, held, evidence.get("found"), where)
        summary = {**answer.summary, "tried": f"{tried}; {answer.summary['tried']}"}
        return replace(
            answer,
            summary={**summary, **found.rows, **warnings},
            figures={**answer.figures, **found.figures},
            inconclusive=answer.inconclusive or lacking or UNTRUSTED,
        )

    def _retrained(
        self, evidence: Evidence, where: str, audit: FlaggedSamples
    ) -> tuple[RepairedModel | None, str]:
        """The network that is trained without the flagged images, or None; and what was tried."""
        model, clean = evidence.model, evidence.clean
        warnings, lacking = check_clean(evidence)
        answer = evidence.run(Retrain(), found=audit)
        tried = (
            f"an audit of the training data, which flags {int(audit.flagged.sum())} images; "
            "training without them"
        )
        if (lost := _lost(model, answer.classifier, clean)) > ACCEPTED:
            return None, f"{tried}, which lost {100 * lost:.1f} points of accuracy"
        scan = evidence.get("found")
        found = check_repair(model, answer.classifier, clean, scan, where)
        decision = {"tried": tried, "decision": "the network that was trained without these images"}
        summary = {**decision, **answer.summary, **found.rows, **warnings}
        reason = (
            answer.inconclusive
            or lacking
            or (found.reason if isinstance(scan, FlaggedClasses) else "")
        )
        figures = {**answer.figures, **found.figures}
        return replace(answer, summary=summary, figures=figures, inconclusive=reason), tried

    def _augmentation(self) -> TriggerAugmentation:
        return replace(self.augmentation, seed=self.seed)

    def parts(self, clean: Samples) -> tuple[Samples, Samples]:
        """See `Repair.parts`."""
        return self._augmentation().parts(clean)

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        return self._repaired(evidence, self.parts(evidence.clean)[1], judged=True)

    def _repaired(self, evidence: Evidence, held: Samples, *, judged: bool) -> RepairedModel:
        """Augment, and unlearn if a recovered trigger still works.

        Args:
            evidence: the evidence of the run.
            held: the images that the result is measured on.
            judged: whether a repair that costs accuracy without a reason is not kept.
        """
        model = evidence.model
        triggers = flagged_triggers(evidence.get("found"), model)
        first = evidence.run(self._augmentation())
        steps, answer = ["trigger augmentation"], first
        if triggers and (left := float(success(first.classifier, held, triggers))) > TOLERATED:
            if evidence.clean.labels is not None:
                steps.append(
                    f"unlearning, because a recovered trigger still worked on {left:.1%} of the "
                    "held-out images"
                )
                classes = self.unlearning.classes or tuple(t.target for t in triggers)
                method = replace(self.unlearning, seed=self.seed, classes=classes)
                answer = evidence.run(method, model=first.model, clean=evidence.clean)
            else:
                steps.append(
                    f"a recovered trigger still works on {left:.1%} of the held-out images, and "
                    "unlearning needs labels"
                )
        summary = {"tried": "; ".join(steps), **first.summary}
        after = Classifier(answer.model, model.to_input)
        scan = evidence.get("found")
        suspected = isinstance(scan, FlaggedClasses | FlaggedSamples) and scan.flagged.any()
        spared = suspected or not judged
        reason = "" if spared else _reason_against(model, after, held, first)
        if reason:
            return repaired(
                evidence,
                graph.copy(model.model),
                summary={**summary, "decision": "the model was left as it is"},
                history=first.history,
                plots=first.plots,
                figures=first.figures,
                inconclusive=reason,
            )
        summary["decision"] = f"the result of {steps[-1].split(',')[0]}"
        return repaired(
            evidence,
            answer.model,
            summary=summary,
            history=first.history,
            plots=first.plots,
            figures=first.figures,
        )


def _reason_against(
    before: Classifier, after: Classifier, held: Samples, answer: RepairedModel
) -> str:
    """Why the network is better left as it is; empty if the repair costs little or has a reason.

    Args:
        before: the examined network.
        after: the repaired network.
        held: the held-out clean images.
        answer: the answer of the trigger augmentation.
    """
    lost = _lost(before, after, held)
    changed = np.asarray(answer.history["changed_before"])
    drawn = float(changed.max() / max(changed.sum(), 1e-9))
    if held.labels is None or lost <= ACCEPTED or drawn >= TOUCHED:
        return ""
    return (
        f"random triggers do not draw the predictions to one class, and the repair would cost "
        f"{100 * lost:.1f} points of accuracy on the held-out images, so the model was left as it "
        "is; to repair it in any case, choose --method trigger-augmentation"
    )


def _lost(before: Classifier, after: Classifier, samples: Samples) -> float:
    """How much accuracy a repair loses; without labels the answers before it take their place."""
    labels = labels_of(before, samples)
    rates = [float(clean_accuracy(m.predict(samples), labels)) for m in (before, after)]
    return rates[0] - rates[1]
