"""Neural attention distillation: a fine-tuned copy teaches the network where to look."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import PLOT, Tuning
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.training import Objective, Recipe


def attention(activations: Any) -> Any:
    """The attention map of a layer: the sum of the squares over the channels, of unit length.

    Args:
        activations: (b, h, w, c).

    Returns:
        (b, h w) float32 maps with an L2 norm of 1.

    >>> attention(tf.constant([[[[3.0, 0.0], [0.0, 2.0]]]])).numpy().round(3)
    array([[0.914, 0.406]], dtype=float32)
    """
    maps = tf.reduce_sum(tf.square(activations), axis=-1)
    return tf.math.l2_normalize(tf.reshape(maps, (tf.shape(maps)[0], -1)), axis=-1)


class AttentionDistillation(Objective):
    """The cross-entropy, and the distance to the attention maps of a teacher.

    Args:
        classifier: the network that is trained.
        recipe: the recipe of the training.
        teacher: the `keras.Model` that teaches it.
        layers: the paths of the layers whose attention maps are compared.
        beta: the weight of the distance.
    """

    def __init__(
        self, classifier: Classifier, recipe: Recipe, teacher: Any, layers: list[str], beta: float
    ) -> None:
        super().__init__(classifier, recipe)
        self.taught, self.teacher = (_with_outputs(m, layers) for m in (self.model, teacher))
        self.beta = beta

    def losses(self, pixels: Any, labels: Any) -> tuple[Any, Any, Any]:
        """See `Objective.losses`."""
        loss, losses, scores = super().losses(pixels, labels)
        wanted = self.teacher(pixels, training=False)
        shown = self.taught(pixels, training=True)
        pairs = zip(keras.tree.flatten(wanted), keras.tree.flatten(shown), strict=True)
        for a, b in pairs:
            squares = tf.square(tf.stop_gradient(attention(a)) - attention(b))
            distance = tf.sqrt(tf.reduce_sum(squares, axis=-1) + 1e-12)  # finite slope at 0
            loss += self.beta * tf.reduce_mean(distance)
        return loss, losses, scores


def _with_outputs(model: Any, layers: list[str]) -> Any:
    """The model with the outputs of some of its layers as outputs."""
    return keras.Model(model.inputs[0], [graph.get_layer(model, path).output for path in layers])


@dataclass(frozen=True)
class NAD(Repair):
    """Fine-tune a teacher on clean images, then distill its attention into the network.

    Li et al., Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks,
    ICLR 2021: with the attention maps A(F) = sum_c F_c^2 of a layer, scaled to unit length, the
    loss is cross-entropy + beta sum over the layers of |A(teacher) - A(student)|.

    Args:
        teacher: the length and the recipe of the training of the teacher.
        student: the length and the recipe of the distillation.
        beta: the weight of the distance.
        layers: how many convolutions are compared, counted from the last one.
        seed: the seed of the order of the images and of dropout.

    Notes:
        The authors compare the outputs of the last three blocks of a residual network and train
        with SGD at a rate of 0.1; here it is the last convolutions and Adam, because a network
        without batch normalization diverges at that rate.
    """

    teacher: Tuning = field(default_factory=Tuning)
    student: Tuning = field(default_factory=Tuning)
    beta: float = 500.0
    layers: int = 3
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Li et al., Neural Attention Distillation, ICLR 2021"
    baseline: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"teacher": Tuning(steps=30), "student": Tuning(steps=30)}

    def __post_init__(self) -> None:
        if self.beta < 0 or self.layers < 1:
            raise BadInput(
                "beta must be 0 or more and layers 1 or more. Received: "
                f"beta={self.beta}, layers={self.layers}"
            )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        examined = evidence.model
        flat = Classifier(graph.flat(examined.model), examined.to_input)
        paths = channels.channel_layers(flat.model)[-self.layers :]
        if not paths:
            raise BadInput("NAD compares convolutions, and the model has none: use another method.")
        teacher, _ = self.teacher.tuned(evidence, "teacher", self.seed, model=flat)
        objective = partial(
            AttentionDistillation, teacher=teacher.model, layers=paths, beta=self.beta
        )
        student, history = self.student.tuned(
            evidence, "student", self.seed + 1, model=flat, objective=objective
        )
        summary = {"layers": ", ".join(paths)}
        return repaired(evidence, student.model, history=history, plots=(PLOT,), summary=summary)
