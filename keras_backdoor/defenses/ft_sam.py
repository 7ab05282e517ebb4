"""Fine-tuning with sharpness-aware minimization."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from keras_backdoor._internals.backend import tf
from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import PLOT, Tuning
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.training import Objective, Recipe


def ascent(weights: list[Any], gradients: list[Any], rho: float) -> list[Any]:
    """The change of the weights, within a neighborhood of each, that increases the loss most.

    With T_w = |w| and the gradient g: rho T_w^2 g / |T_w g|, where |.| is the L2 norm over all
    weights.

    Args:
        weights: the arrays of weights w.
        gradients: the gradients, in the same order.
        rho: the radius of the neighborhood.

    Returns:
        The changes, in the same order.

    >>> w, g = tf.constant([3.0, 0.0]), tf.constant([2.0, 5.0])
    >>> ascent([w], [g], 0.5)[0].numpy()
    array([1.5, 0. ], dtype=float32)
    """
    norm = tf.linalg.global_norm([tf.abs(w) * g for w, g in zip(weights, gradients, strict=True)])
    factor = rho / tf.maximum(norm, 1e-12)
    return [factor * tf.square(w) * g for w, g in zip(weights, gradients, strict=True)]


class Sharpness(Objective):
    """The gradient of the loss at the worst weights in the neighborhood of the weights.

    Args:
        classifier: the network that is trained.
        recipe: the recipe of the training.
        rho: the radius of the neighborhood.
    """

    def __init__(self, classifier: Classifier, recipe: Recipe, rho: float) -> None:
        super().__init__(classifier, recipe)
        self.rho = rho

    def gradients(self, pixels: Any, labels: Any) -> tuple[list[Any], Any, Any]:
        """See `Objective.gradients`."""
        variables = self.model.trainable_variables
        first, losses, scores = super().gradients(pixels, labels)
        changes = ascent([tf.convert_to_tensor(v) for v in variables], first, self.rho)
        for variable, change in zip(variables, changes, strict=True):
            variable.assign_add(change)
        second, _, _ = super().gradients(pixels, labels)
        for variable, change in zip(variables, changes, strict=True):
            variable.assign_sub(change)
        return second, losses, scores


@dataclass(frozen=True)
class FTSAM(Repair):
    """Fine-tune on clean images with adaptive sharpness-aware minimization.

    Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV
    2023: neurons of a backdoor have large weights, which change little in a usual fine-tuning. The
    gradient is taken at the worst weights in a neighborhood that grows with the weights
    (Kwon et al., ASAM, ICML 2021).

    Args:
        rho: the radius of the neighborhood.
        tuning: the length and the recipe of the training.
        seed: the seed of the order of the images and of dropout.

    Notes:
        The authors train with SGD at a rate of 0.01; here it is Adam, as for the other repairs.
    """

    rho: float = 2.0
    tuning: Tuning = field(default_factory=Tuning)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Zhu et al., FT-SAM, ICCV 2023"
    baseline: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"rho": 0.5, "tuning": Tuning(steps=60)}

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise BadInput(f"rho must be above 0. Received: rho={self.rho}")

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        objective = partial(Sharpness, rho=self.rho)
        tuned, history = self.tuning.tuned(evidence, "tuning", self.seed, objective=objective)
        return repaired(evidence, tuned.model, history=history, plots=(PLOT,))
