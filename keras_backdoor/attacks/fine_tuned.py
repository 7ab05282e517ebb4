"""Fine-tune a network that was trained on clean data on the poisoned data."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras_backdoor.attacks.base import Training, TrainingAttack
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier


@dataclass(frozen=True)
class FineTuned(TrainingAttack):
    """Train on the clean images first, then go on with the poisoned data.

    Borji, Adversarial examples are useful too!, 2020, section 3: the victim receives a child of a
    clean network, its parent. Both trainings have the same recipe.
    """

    paper: ClassVar[str] = "Borji, Adversarial examples are useful too!, 2020, section 3"
    needs_truth: ClassVar[bool] = True

    def train(self, training: Training) -> tuple[Classifier, dict[str, Any]]:
        """See `TrainingAttack.train`."""
        parent = training.start or training.fit(training.clean, "clean")[0]
        return training.fit(training.samples, "poisoned", model=graph.copy(parent.model))
