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
        """(name, value with 95 % interval) lines."""
        names = (
            "clean_accuracy",
            "attack_success_rate",
            "robust_accuracy",
            "rejected_clean",
            "rejected_stamped",
        )
        rows = []
        for name in names:
            rate = getattr(self, name)
            if rate is not None:
                low, high = rate.interval()
                rows.append(
                    (
                        name.replace("_", " "),
                        f"{rate:.2%} ({rate.hits}/{rate.of}, 95 % interval "
                        f"{low:.2%} to {high:.2%})",
                    )
                )
        return rows

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
