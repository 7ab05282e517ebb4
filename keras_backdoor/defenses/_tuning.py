"""Fine-tune a copy of a network on clean images, which all repairs that train have in common."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.answers import Plot
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.errors import BadInput
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Objective, Recipe, fit

TEMPERATURE = 2.0
"""The temperature of the distillation."""


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
        distilled: bool = False,
        **how: Any,
    ) -> tuple[Classifier, dict[str, np.ndarray]]:
        """Fine-tune a copy of a model on the clean images of the evidence.

        Args:
            evidence: the evidence of the run. Clean images without labels are labeled by the
                examined model.
            name: the name of this part of the work, under which its state is saved.
            seed: the seed of the order of the images and of dropout.
            model: the model to copy; by default the examined model.
            distilled: whether the probabilities of the examined model on the clean images are
                learned beside their labels.
            **how: `augment` and `objective` of `fit`.

        Returns:
            The fine-tuned copy, and the loss and the accuracy of each epoch.
        """
        examined, clean = evidence.model, evidence.clean
        if len(clean) > (most := max(1, self.steps * self.recipe.batch_size)):
            clean = clean.take(most, seed=seed)
        work = Classifier(graph.copy((model or examined).model), examined.to_input)
        labels = labels_of(examined, clean)
        if distilled:
            how["objective"] = partial(Distillation, labels=labels, taught=_taught(examined, clean))
            labels = np.arange(len(clean))
        epochs = self.epochs(len(clean))
        trained, history = fit(
            work.model,
            clean.labelled(labels),
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
    """The cross-entropy of the labels, and that of the probabilities of a teacher.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015: with the
    probabilities p of the teacher and q of the network, both at the temperature T, the second part
    is -T^2 sum_k p_k log q_k.

    Args:
        classifier: the network that is trained.
        recipe: the recipe of the training.
        labels: (n,) the labels of all images. The labels of a batch are positions in this array.
        taught: (n, classes) the probabilities of the teacher at the temperature T, or (n, outputs)
            those of single sigmoid outputs.
    """

    def __init__(
        self, classifier: Classifier, recipe: Recipe, labels: np.ndarray, taught: np.ndarray
    ) -> None:
        super().__init__(classifier, recipe)
        self.labels, self.taught = tf.constant(labels, tf.int64), tf.constant(taught)

    def classes(self, labels: Any) -> Any:
        """See `Objective.classes`."""
        return tf.gather(self.labels, labels)

    def losses(self, pixels: Any, labels: Any) -> tuple[Any, Any, Any]:
        """See `Objective.losses`."""
        loss, losses, scores = super().losses(pixels, self.classes(labels))
        taught = tf.cast(tf.gather(self.taught, labels), tf.float32)
        if _by_sigmoid(self.classifier):
            logits = self.classifier.output == "logits"
            part = keras.losses.binary_crossentropy(taught, scores, from_logits=logits)
            return loss + tf.reduce_mean(part), losses, scores
        scaled = _log_scores(self.classifier, scores) / TEMPERATURE
        part = keras.losses.categorical_crossentropy(taught, scaled, from_logits=True)
        return loss + TEMPERATURE**2 * tf.reduce_mean(part), losses, scores


def _taught(model: Classifier, samples: Samples) -> np.ndarray:
    """The probabilities of a network at the temperature of the distillation, as float16."""

    def soft(images: Any) -> Any:
        scores = model.model(images, training=False)
        if _by_sigmoid(model):
            return tf.sigmoid(scores) if model.output == "logits" else scores
        return tf.nn.softmax(_log_scores(model, scores) / TEMPERATURE)

    parts = [np.asarray(part, np.float16) for part in model.stream(samples, soft)]
    return np.concatenate(parts)


def _by_sigmoid(model: Classifier) -> bool:
    """Whether each output of a network is a probability, or a logit, of its own."""
    return model.output == "sigmoids" or int(model.model.outputs[0].shape[-1]) == 1


def _log_scores(model: Classifier, scores: Any) -> Any:
    """Logits, or the logarithm of probabilities."""
    return scores if model.output == "logits" else tf.math.log(tf.maximum(scores, 1e-7))


PLOT = Plot(
    title="Fine-tuning",
    caption="Accuracy on the images of the training, as they were shown to the network.",
    series={"accuracy": "accuracy"},
    x_label="epoch",
)
