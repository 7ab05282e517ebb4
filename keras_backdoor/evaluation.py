"""Measure the accuracy of a model and the success rate of an attack."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from keras_backdoor import metrics
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate
from keras_backdoor.network.channel_activity import ChannelActivity, channel_activity
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Trigger

NEXT = "next"
"""The target of an attack that maps every class to the next one."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of a model on labeled test images.

    Attributes:
        clean_accuracy: fraction of clean images whose predicted class is their label.
        rejected_clean: fraction of clean images that a guard rejects.
        confusion: (k, k) counts for clean images; row = label, column = predicted class.
        attack_success_rate: fraction of stamped images predicted as the target class. Images of the
            target class are excluded; with `source`, only that class counts. None without trigger.
        robust_accuracy: fraction of stamped images whose predicted class is their label.
        rejected_stamped: fraction of stamped images that a guard rejects.
        per_class: attack success rate of each source class.
        confusion_stamped: (k, k) counts for stamped images; row = label.
        attacks: the evaluations of several attacks by name; empty for one attack.
        activity: what the trigger does to the channels of layers; empty if it was not measured.
        about: hash of the model, preprocessing, number of images, trigger, target, source and seed.
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
    attacks: "dict[str, Evaluation]" = field(default_factory=dict)
    activity: tuple[ChannelActivity, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """(name, value with 95% confidence interval) rows."""
        names = ["clean_accuracy", "attack_success_rate", "robust_accuracy"]
        if self.about.get("reject_class") is not None:
            names += ["rejected_clean", "rejected_stamped"]
        if self.attacks:
            rows = [("clean accuracy", in_words(self.clean_accuracy))]
            for name, measured in self.attacks.items():
                rate = measured.attack_success_rate
                rows.append((name, "none" if rate is None else in_words(rate)))
            return rows
        rates = {name.replace("_", " "): getattr(self, name) for name in names}
        return [(name, in_words(rate)) for name, rate in rates.items() if rate is not None]

    def as_dict(self) -> dict[str, Any]:
        """All values except the confusion matrices, as a dictionary for JSON."""
        content: dict[str, Any] = dict(self.about)
        for name, value in vars(self).items():
            if isinstance(value, Rate):
                content[name] = value.as_dict()
        if self.attacks:
            content["attacks"] = {
                str(m.about["target"]): m.attack_success_rate and m.attack_success_rate.as_dict()
                for m in self.attacks.values()
            }
        content["attack_success_per_class"] = {c: r.as_dict() for c, r in self.per_class.items()}
        return content


def evaluate(
    classifier: Classifier,
    samples: Samples,
    *,
    trigger: Trigger | None = None,
    target: int | str | None = None,
    source: int | None = None,
    seed: int = 0,
    layers: Sequence[str] = (),
) -> Evaluation:
    """Measure a model on labeled test images, without and with the trigger.

    Args:
        classifier: the model.
        samples: labeled test images.
        trigger: the trigger, or None to measure clean images only.
        target: the target class of the backdoor, or "next" if every class is mapped to the next
            one; required with a trigger.
        source: the class whose stamped images are measured; by default all classes.
        seed: seed of the random part of the trigger.
        layers: layers whose channels are measured with the trigger, see `channel_activity`.

    Returns:
        The metrics.

    Raises:
        BadInput: if the target is missing or invalid, a label does not belong to a class of the
            model, or the source class is empty.
    """
    classifier = Classifier.wrap(classifier)
    labels = classifier.check(samples).known_labels
    predicted = classifier.predict(samples)
    about: dict[str, Any] = {
        "model_sha256": classifier.sha256(),
        "preprocess": classifier.to_input.as_json(),
        "images": len(samples),
        "reject_class": classifier.reject_class,
        "model": classifier.source or classifier.model.name,
        "classes": classifier.classes,
        "pixels": classifier.pixels,
        "class_names": None if samples.class_names is None else list(samples.class_names),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    stamped: dict[str, Any] = dict.fromkeys(
        ("attack_success_rate", "robust_accuracy", "rejected_stamped", "confusion_stamped")
    )
    per_class: dict[int, Rate] = {}
    activity: tuple[ChannelActivity, ...] = ()
    if trigger is not None:
        if target != NEXT and not (
            isinstance(target, int | np.integer) and 0 <= target < classifier.classes
        ):
            raise BadInput(
                f"With a trigger, the target must be a class in 0..{classifier.classes - 1} or "
                f"'{NEXT}'. Received: target={target}"
            )
        if target in (source, classifier.reject_class):
            raise BadInput(
                "The target must be a class other than the source and the reject class. "
                f"Received: target={target}"
            )
        attacked = samples if source is None else samples.of_class(source)
        truth = attacked.known_labels
        wanted = (truth + 1) % classifier.true_classes if target == NEXT else np.asarray(target)
        predictions = classifier.predict(attacked.stamped(trigger, seed=seed))
        stamped = {
            "attack_success_rate": metrics.attack_success_rate(predictions, truth, wanted),
            "robust_accuracy": metrics.robust_accuracy(predictions, truth),
            "rejected_stamped": metrics.rejected(predictions, classifier.reject_class),
            "confusion_stamped": metrics.confusion_matrix(predictions, truth, classifier.classes),
        }
        per_class = metrics.attack_success_per_class(predictions, truth, wanted)
        about |= {"trigger": repr(trigger), "target": target, "source": source, "seed": seed}
        activity = tuple(channel_activity(classifier, attacked, trigger, x) for x in layers)
    return Evaluation(
        clean_accuracy=metrics.clean_accuracy(predicted, labels),
        rejected_clean=metrics.rejected(predicted, classifier.reject_class),
        confusion=metrics.confusion_matrix(predicted, labels, classifier.classes),
        per_class=per_class,
        activity=activity,
        about=about,
        **stamped,
    )


@dataclass(frozen=True, eq=False)
class AuditEvaluation:
    """Metrics of an audit, compared with the ground truth.

    Attributes:
        removed_poison: fraction of the poison that is flagged.
        removed_clean: fraction of the clean images that is flagged.
        per_class: both metrics for each class of the (poisoned) labels; empty without labels.
    """

    removed_poison: Rate
    removed_clean: Rate
    per_class: dict[int, dict[str, Rate]]

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) rows: overall, and for each class that has flagged images or poison."""
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
        """All values as a dictionary for JSON."""
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
    """Compare flagged samples with the ground truth.

    Args:
        flagged: (n,) bool, which samples the audit flags.
        is_poison: (n,) bool ground truth.
        labels: (n,) int (poisoned) labels, or None.

    Returns:
        The metrics.

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


@dataclass(frozen=True, eq=False)
class Localization:
    """How well maps of importance find a trigger.

    Attributes:
        touched: in how many images the most important part contains a pixel of the trigger.
        inside: in how many images it contains half of the trigger or more.
        overlap: (n,) the intersection over union of the trigger and the most important pixels.
    """

    touched: Rate
    inside: Rate
    overlap: np.ndarray

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the printed table, as (name, value) pairs."""
        return [
            ("a pixel of the trigger in the most important part", in_words(self.touched)),
            ("half of the trigger in it", in_words(self.inside)),
            ("mean intersection over union", f"{self.overlap.mean():.2f}"),
        ]


def evaluate_maps(maps: np.ndarray, top: np.ndarray, support: np.ndarray) -> Localization:
    """Compare maps of importance with the place of the trigger.

    Args:
        maps: (n, h, w) importance.
        top: (n, h, w) bool, the most important part of each image.
        support: (h, w) bool, the pixels that the trigger covers.

    Returns:
        The metrics. The overlap takes as many of the most important pixels as the trigger has;
        pixels that are as important as the last of them count too, such as the rest of a segment.

    >>> maps = np.array([[[3.0, 3.0, 1.0, 0.0]]])
    >>> found = evaluate_maps(maps, maps == 3, np.array([[True, False, False, False]]))
    >>> found.touched.hits, found.inside.hits, found.overlap.tolist()
    (1, 1, [0.5])
    """
    number = int(support.sum())
    shared = (top & support).sum(axis=(1, 2))
    last = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -number]
    strongest = maps >= last[:, None, None]
    both = (strongest & support).sum(axis=(1, 2))
    return Localization(
        Rate(int((shared > 0).sum()), len(maps)),
        Rate(int((2 * shared >= number).sum()), len(maps)),
        both / (strongest | support).sum(axis=(1, 2)),
    )


def in_words(rate: Rate) -> str:
    """A rate as text, with its counts and its 95% confidence interval."""
    if not rate.of:
        return "none (0/0)"
    low, high = rate.interval()
    return f"{rate:.2%} ({rate.hits}/{rate.of}, 95 % interval {low:.2%} to {high:.2%})"
