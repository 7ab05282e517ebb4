"""Fine-tuning on clean images, the simplest repair."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import PLOT, Tuning
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired


@dataclass(frozen=True)
class FineTuning(Repair):
    """Train the network further on clean images.

    Liu, Xie and Srivastava, Neural Trojans, ICCD 2017 (retraining). It is the baseline that every
    other repair is compared with: many backdoors survive it.

    Args:
        tuning: the length and the recipe of the training.
        seed: the seed of the order of the images and of dropout.

    Notes:
        If the clean images have no labels, the examined model labels them.
    """

    tuning: Tuning = field(default_factory=Tuning)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Liu, Xie and Srivastava, Neural Trojans, ICCD 2017"
    baseline: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"tuning": Tuning(steps=60)}
    caveats: ClassVar[tuple[str, ...]] = (
        "Fine-tuning on clean images alone leaves many backdoors as they are.",
    )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        tuned, history = self.tuning.tuned(evidence, "tuning", self.seed)
        return repaired(evidence, tuned.model, history=history, plots=(PLOT,))
