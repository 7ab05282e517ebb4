"""Trigger augmentation: fine-tune on clean images that bear random triggers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.answers import Plot, RepairedModel
from keras_backdoor.defenses._random_triggers import FAMILIES, RandomTriggers
from keras_backdoor.defenses._random_views import random_views
from keras_backdoor.defenses._recovered_triggers import flagged_triggers, hold_out_spare
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import Distillation, Tuning
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe

STEPS = 4000
"""The length of the training."""
HELD_OUT = 0.1
"""The share of the recordings, or of the images, that the repair is measured on."""


@dataclass(frozen=True)
class TriggerAugmentation(Repair):
    """Distill a network into a copy of itself that sees random triggers where it sees none.

    Each clean image is rotated, scaled, shifted, brightened or darkened a little. The examined
    network sees it so; the copy sees the same view with random triggers and learns to give the
    same probabilities, or those with the label on top where the examined network is wrong (see
    `Distillation`). So it learns that small marks do not change the class, also marks that it was
    taught to obey, and keeps the accuracy.

    No scan is needed, and the trigger does not have to be known, but it has to resemble the random
    ones: squares, figures of single pixels, squares of noise and checkerboards of up to a quarter
    of the image's side at any position and in any color and, less often, blends with noise or other
    images, glasses and warps. If the answer of a scan is given as `found`, its recovered triggers
    are stamped too, on images of other classes than theirs.

    Related work: Beyer et al., Knowledge Distillation: A Good Teacher is Patient and Consistent,
    CVPR 2022, show teacher and student the same views; Qiu et al., DeepSweep, AsiaCCS 2021,
    fine-tune on transformed images. All settings were chosen on the development zoo
    (`docs/repairs.md`).

    Args:
        families: the families of random triggers.
        tuning: the length and the recipe of the training.
        seed: the seed of the held-out images, the triggers, the order of the images and of dropout.

    Notes:
        If the clean images have no labels, the examined model labels them.
    """

    families: tuple[str, ...] = FAMILIES
    tuning: Tuning = field(default_factory=lambda: Tuning(steps=STEPS, averaged=0.5))
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    measured_on: ClassVar[Any] = "own"
    revision: ClassVar[int] = 3
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "none: made for this project; related to Qiu et al., AsiaCCS 2021"
    quick: ClassVar[dict[str, Any]] = {
        "tuning": Tuning(steps=300, averaged=0.3, recipe=Recipe(learning_rate=5e-3))
    }
    caveats: ClassVar[tuple[str, ...]] = (
        "A trigger that does not resemble the random ones may survive.",
    )

    def __post_init__(self) -> None:
        RandomTriggers(self.families)

    def parts(self, clean: Samples) -> tuple[Samples, Samples]:
        """See `Repair.parts`."""
        return hold_out_spare(clean, HELD_OUT, self.seed)

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model = evidence.model
        check_no_guard(model)
        working, held = self.parts(evidence.clean)
        found = flagged_triggers(evidence.get("found"), model)
        triggers = RandomTriggers(self.families, [(t.stamp, t.target) for t in found])
        own = evidence.replaced("clean", working)

        def augment(images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
            seen = random_views(images, seed)
            return triggers(seen, labels, seed), seen

        objective = partial(Distillation, teacher=model)
        tuned, history = self.tuning.tuned(
            own, "tuning", self.seed, augment=augment, objective=objective
        )
        before, after = changed_by_triggers((model, tuned), held, self.families)
        summary = {
            "held-out images that random triggers change": (
                f"{before['share']:.2%} -> {after['share']:.2%}"
            )
        }
        if triggers.recovered:
            summary["recovered triggers among the random ones"] = str(len(triggers.recovered))
        history |= {"changed_before": before["classes"], "changed_after": after["classes"]}
        plots = (CURVE, CHANGED)
        shares = {"before": before["share"], "after": after["share"]}
        return repaired(
            evidence,
            tuned.model,
            history=history,
            plots=plots,
            summary=summary,
            figures={"changed_by_random_triggers": shares},
        )


def changed_by_triggers(
    models: Sequence[Classifier], samples: Samples, families: tuple[str, ...], *, repeats: int = 4
) -> list[dict[str, Any]]:
    """Measure how often random triggers change the predictions of networks.

    Args:
        models: the networks, which all see the same triggers.
        samples: clean images.
        families: the families of random triggers.
        repeats: how many triggers each image gets, one after the other.

    Returns:
        For each network `share`, the share of the stamped images whose prediction changes; and
        `classes` (k,), the share of the stamped images whose prediction changes to each class.
    """
    clean = [model.predict(samples) for model in models]
    changed = [np.zeros(model.classes) for model in models]
    triggers = RandomTriggers(families)
    for number in range(repeats):
        start = 0
        for images, labels in samples.batches(256):
            unit = unit_images(images, samples)
            stamped = triggers(unit, labels, tf.constant([number, start])).numpy()
            end = start + len(stamped)
            for model, without, counts in zip(models, clean, changed, strict=True):
                predicted = model.predict(Samples(stamped, value_range=(0.0, 1.0)))
                different = predicted[predicted != without[start:end]]
                counts += np.bincount(different, minlength=model.classes)
            start = end
    shares = [counts / (repeats * len(samples)) for counts in changed]
    return [{"share": float(classes.sum()), "classes": classes} for classes in shares]


CURVE = Plot(
    title="Fine-tuning",
    caption="Accuracy on the images of the training, with their random triggers.",
    series={"accuracy": "accuracy"},
    x_label="epoch",
)
CHANGED = Plot(
    title="What random triggers do",
    caption="The share of held-out images that random triggers move to each class.",
    series={"examined model": "changed_before", "repaired model": "changed_after"},
    x_label="class",
    y_label="share of the images",
    kind="bars",
)
