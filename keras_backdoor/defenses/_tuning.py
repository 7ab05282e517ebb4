"""Fine-tune a copy of a network on clean images, which all repairs that train have in common."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.answers import Plot
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.errors import BadInput
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.training import Objective, Recipe, cross_entropy, fit


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned.

    The length is given in steps, so that few images are seen more often than many. At most
    `steps * recipe.batch_size` images are used.

    Args:
        steps: the number of batches, rounded up to whole epochs; 0 trains nothing.
        averaged: the share of the epochs, at the end, over which the weights are averaged
            (Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018).
        recipe: the optimizer, its learning rate and the batch size. Its epochs and its seed are
            ignored.

    Raises:
        BadInput: if a setting is out of range.
    """

    steps: int = 1000
    averaged: float = 0.15
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.averaged < 1:
            raise BadInput(
                "steps must be 0 or more and averaged must lie in 0..1. Received: "
                f"steps={self.steps}, averaged={self.averaged}"
            )

    def epochs(self, images: int) -> int:
        """The number of passes over this number of images."""
        return max(1, -(-self.steps // -(-images // self.recipe.batch_size)))

    def tuned(
        self,
        evidence: Evidence,
        name: str,
        seed: int,
        *,
        model: Classifier | None = None,
        **how: Any,
    ) -> tuple[Classifier, dict[str, np.ndarray]]:
        """Fine-tune a copy of a model on the clean images of the evidence.

        Layers that were frozen in the training of the model are trained too, because a last layer
        alone cannot learn to see an image with a mark as one without it.

        Args:
            evidence: the evidence of the run. Clean images without labels are labeled by the
                examined model.
            name: the name of this part of the work, under which its state is saved.
            seed: the seed of the order of the images and of dropout.
            model: the model to copy; by default the examined model.
            **how: `augment` and `objective` of `fit`.

        Returns:
            The fine-tuned copy, and the loss and the accuracy of each epoch.
        """
        examined, clean = evidence.model, evidence.clean
        if len(clean) > (most := max(1, self.steps * self.recipe.batch_size)):
            clean = clean.take(most, seed=seed)
        work = Classifier(graph.copy((model or examined).model), examined.to_input)
        epochs = self.epochs(len(clean))
        with graph.all_trainable(work.model):
            trained, history = fit(
                work.model,
                clean.labelled(labels_of(examined, clean)),
                replace(self.recipe, epochs=epochs, seed=seed),
                preprocess=examined.to_input,
                checkpoint=evidence.checkpoint(name),
                averaged=round(self.averaged * epochs),
                **how,
            )
        return trained, {key: np.array(values) for key, values in history.items()}


NO_TUNING = Tuning(steps=0, averaged=0.0)
"""No fine-tuning, for methods that do more than that."""


class Distillation(Objective):
    """The cross-entropy of the probabilities that a teacher gives to other versions of the images.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015: with the
    probabilities p of the teacher and q of the network, the loss is -sum_k p_k log q_k. Where the
    most probable class of the teacher is not the label, the probabilities of the two are exchanged
    (Wen, Lai and Qian, Preparing Lessons: Improve Knowledge Distillation with Better Supervision,
    2019). Dropout is off and batch normalization uses its stored statistics, as in the teacher, so
    that the network can match it.

    Args:
        classifier: the network that is trained.
        recipe: the recipe of the training.
        teacher: the network that teaches, with the inputs and outputs of the other one.
    """

    def __init__(self, classifier: Classifier, recipe: Recipe, teacher: Classifier) -> None:
        super().__init__(classifier, recipe)
        self.teacher = teacher

    def losses(self, pixels: Any, labels: Any) -> tuple[Any, Any, Any]:
        """See `Objective.losses`; the versions are that of the network and that of the teacher."""
        learned, taught = pixels
        scores, penalty = self.forward(learned, training=False)
        wanted = corrected(self.teacher.probabilities(taught), labels)
        kind, single = self.classifier.output, scores.shape[-1] == 1
        by_sigmoid = single or kind == "sigmoids"
        compare = (
            keras.losses.binary_crossentropy
            if by_sigmoid
            else keras.losses.categorical_crossentropy
        )
        losses = compare(wanted[:, 1:] if single else wanted, scores, from_logits=kind == "logits")
        loss = tf.reduce_mean(losses) + penalty
        return loss, cross_entropy(scores, labels, self.classifier.output), scores


def corrected(probabilities: Any, labels: Any) -> Any:
    """Exchange the probability of the label with the largest one, see `Distillation`.

    Args:
        probabilities: (b, classes).
        labels: (b,) int64.

    Returns:
        The probabilities, of the same shape, whose largest one is that of the label.
    """
    largest = tf.argmax(probabilities, axis=-1)
    difference = tf.reduce_max(probabilities, axis=-1) - tf.gather(
        probabilities, labels, batch_dims=1
    )
    classes = probabilities.shape[-1]
    exchange = tf.one_hot(labels, classes) - tf.one_hot(largest, classes)
    return probabilities + difference[:, None] * exchange


PLOT = Plot(
    title="Fine-tuning",
    caption="Accuracy on the images of the training, as they were shown to the network.",
    series={"accuracy": "accuracy"},
    x_label="epoch",
)
