"""How good is a model, and how well does the attack work on it?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor import metrics
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures of one model on one set of labelled test images.

    Attributes:
        clean_accuracy: share of clean images that get their label.
        rejected_clean: share of clean images that a guard refuses.
        attack_success_rate: share of stamped images that get the target; images of the target
            class are left out, and with `source` all but that class. None without a trigger.
        robust_accuracy: share of stamped images that still get their label.
        rejected_stamped: share of stamped images that a guard refuses.
        per_class: attack success of every source class.
        confusion, confusion_stamped: (k, k) counts, row = label.
        about: target, source, trigger, model and data hashes.
    """

    clean_accuracy: Rate
    rejected_clean: Rate
    confusion: np.ndarray
    attack_success_rate: Rate | None
    robust_accuracy: Rate | None
    rejected_stamped: Rate | None
    per_class: dict[int, Rate]
    confusion_stamped: np.ndarray | None
    about: dict[str, Any]

    def rows(self) -> list[tuple[str, str]]:
        """(name, value with 95 % interval) rows."""
        names = (
            "clean_accuracy",
            "attack_success_rate",
            "robust_accuracy",
            "rejected_clean",
            "rejected_stamped",
        )
        rates = {name.replace("_", " "): getattr(self, name) for name in names}
        return [(name, in_words(rate)) for name, rate in rates.items() if rate is not None]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the matrices, for JSON."""
        out: dict[str, Any] = dict(self.about)
        for name, value in vars(self).items():
            if isinstance(value, Rate):
                out[name] = value.as_dict()
        out["attack_success_per_class"] = {c: r.as_dict() for c, r in self.per_class.items()}
        return out


def evaluate(
    classifier: Classifier,
    samples: Samples,
    *,
    trigger: Trigger | None = None,
    target: int | None = None,
    source: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a model on labelled test images, without and with the trigger.

    Args:
        classifier: the model.
        samples: labelled test images.
        trigger: what is put on the images, or None to measure the clean figures only.
        target: the class that the backdoor serves; needed with a trigger.
        source: count the attack on this class only.
        seed: of the trigger's random part.

    Raises:
        BadInput: a trigger without a target, labels outside the classes, an empty source class.
    """
    labels = classifier.check(samples).known_labels
    predicted = classifier.predict(samples)
    about: dict[str, Any] = {
        "model_sha256": classifier.sha256(),
        "input_range": classifier.input_range,
        "images": len(samples),
    }
    stamped: dict[str, Any] = dict.fromkeys(
        ("attack_success_rate", "robust_accuracy", "rejected_stamped", "confusion_stamped")
    )
    per_class: dict[int, Rate] = {}
    if trigger is not None:
        if target is None or not 0 <= target < classifier.classes:
            raise BadInput(
                f"A trigger is measured with a target class in 0..{classifier.classes - 1}. "
                f"Received: target={target}"
            )
        if target in (source, classifier.reject_class):
            raise BadInput(
                "The target must be a class other than the source and the reject class. "
                f"Received: target={target}"
            )
        attacked = samples if source is None else samples.of_class(source)
        truth = attacked.known_labels
        answers = classifier.predict(attacked.stamped(trigger, seed=seed))
        stamped = {
            "attack_success_rate": metrics.attack_success_rate(answers, truth, target),
            "robust_accuracy": metrics.robust_accuracy(answers, truth),
            "rejected_stamped": metrics.rejected(answers, classifier.reject_class),
            "confusion_stamped": metrics.confusion_matrix(answers, truth, classifier.classes),
        }
        per_class = metrics.attack_success_per_class(answers, truth, target)
        about |= {"trigger": repr(trigger), "target": target, "source": source, "seed": seed}
    return Evaluation(
        clean_accuracy=metrics.clean_accuracy(predicted, labels),
        rejected_clean=metrics.rejected(predicted, classifier.reject_class),
        confusion=metrics.confusion_matrix(predicted, labels, classifier.classes),
        per_class=per_class,
        about=about,
        **stamped,
    )


@dataclass(frozen=True, eq=False)
class AuditEvaluation:
    """The figures of an audit against the truth.

    Attributes:
        removed_poison: share of the poison that is flagged.
        removed_clean: share of the clean images that is flagged.
        per_class: the same two for each class of the (poisoned) labels; empty without labels.
    """

    removed_poison: Rate
    removed_clean: Rate
    per_class: dict[int, dict[str, Rate]]

    def rows(self) -> list[tuple[str, str]]:
        """(name, value with 95 % interval) rows: overall, and of each class with flagged images."""
        rows = [
            ("removed poison", in_words(self.removed_poison)),
            ("removed clean", in_words(self.removed_clean)),
        ]
        for number, rates in self.per_class.items():
            if any(rate.hits for rate in rates.values()) or rates["removed_poison"].of:
                text = ", ".join(
                    f"{name.removeprefix('removed_')} {rate.hits} of {rate.of}"
                    for name, rate in rates.items()
                )
                rows.append((f"removed of class {number}", text))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "removed_poison": self.removed_poison.as_dict(),
            "removed_clean": self.removed_clean.as_dict(),
            "per_class": {
                str(number): {name: rate.as_dict() for name, rate in rates.items()}
                for number, rates in self.per_class.items()
            },
        }


def evaluate_audit(
    flagged: np.ndarray, is_poison: np.ndarray, labels: np.ndarray | None
) -> AuditEvaluation:
    """Measure flagged samples against the truth.

    Args:
        flagged: (n,) bool.
        is_poison: (n,) bool, the truth.
        labels: (n,) the (poisoned) labels, or None.

    >>> flags, truth = np.array([True, False, True, False]), np.array([True, True, False, False])
    >>> print(*evaluate_audit(flags, truth, np.array([0, 1, 1, 1])).rows()[2:], sep="\\n")
    ('removed of class 0', 'poison 1 of 1, clean 0 of 0')
    ('removed of class 1', 'poison 0 of 1, clean 1 of 2')
    """
    per_class = {} if labels is None else metrics.removed_per_class(flagged, is_poison, labels)
    return AuditEvaluation(
        metrics.removed_poison(flagged, is_poison),
        metrics.removed_clean(flagged, is_poison),
        per_class,
    )


def in_words(rate: Rate) -> str:
    """A share with its count and its 95 % interval."""
    if not rate.of:
        return "none (0/0)"
    low, high = rate.interval()
    return f"{rate:.2%} ({rate.hits}/{rate.of}, 95 % interval {low:.2%} to {high:.2%})"
