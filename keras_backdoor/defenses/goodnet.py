"""GoodNet G(B, B'): reject the inputs on which a BadNet and its repair disagree."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._guards import SHARPNESS, probabilities
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard, repaired
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.errors import BadInput
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import GUARD, Classifier


def goodnet(b: Any, b_prime: Any, tolerance: float | None = None) -> Any:
    """Combine a model B and its repair B' into a model that rejects inputs on which they disagree.

    With the predictions y = argmax B(x) and y' = argmax B'(x), the probabilities p_B(x) of B and
    a = 1 where the two agree, else a = 0, the outputs are

        G(x) = [a p_B(x), 1 - a]

    They agree if y = y' or, with a tolerance t, if B' gives the class y a probability above t.
    The model consists of built-in Keras layers only, so its `.h5` and `.keras` files load without
    custom code. Layers that have the same weights and the same input in both networks run once.

    Args:
        b: the examined `keras.Model` or Classifier, N classes.
        b_prime: the repair of b, with the same input shape and classes.
        tolerance: the largest probability of the class of B with which B' still disagrees; None
            compares the predictions.

    Returns:
        A new `keras.Model` with N+1 outputs, which shares no weights with b and b_prime.

    Raises:
        BadInput: the input shapes or the numbers of classes differ, or the tolerance does not lie
            between 0 and 1.
    """
    check_tolerance(tolerance)
    nets = [Classifier.wrap(m) for m in (b, b_prime)]
    if nets[0].image_shape != nets[1].image_shape or nets[0].classes != nets[1].classes:
        raise BadInput(f"B and B' must have the same input and classes. Received: {nets}")
    image = keras.Input(nets[0].model.inputs[0].shape[1:], name="image")
    shared = _SharedLayers()
    scores = [
        probabilities(net, graph.replay(net.model, image, shared.visitor(prefix)), prefix)
        for net, prefix in zip(nets, ("b", "b_prime"), strict=True)
    ]
    layers = keras.layers
    if tolerance is None:
        agreement = layers.Dot(axes=1, name="guard.agreement")(
            [_winner(s, name) for s, name in zip(scores, ("b", "b_prime"), strict=True)]
        )
    else:
        given = layers.Dot(axes=1, name="guard.given")([_winner(scores[0], "b"), scores[1]])
        agreement = layers.Rescaling(
            SHARPNESS, offset=-SHARPNESS * tolerance, name="guard.agreement"
        )(given)
    agree = layers.ReLU(max_value=1.0, name="guard.agree")(agreement)
    reject = layers.ReLU(max_value=1.0, name="guard.reject")(
        layers.Rescaling(-1.0, offset=1.0, name="guard.disagreement")(agree)
    )
    accepted = layers.Multiply(name="guard.accepted")([scores[0], agree])
    scores_and_reject = layers.Concatenate(name="guard.scores")([accepted, reject])
    guard = keras.Model(image, scores_and_reject, name=GUARD)
    graph.settle(guard)
    return guard


def check_tolerance(tolerance: float | None) -> None:
    """Raise `BadInput` if a tolerance does not lie between 0 and 1."""
    if tolerance is not None and not 0 < tolerance < 1:
        raise BadInput(f"tolerance must lie between 0 and 1. Received: tolerance={tolerance}")


def _winner(scores: Any, name: str) -> Any:
    """(n, classes), 1 for the class with the highest score, else 0."""
    layers = keras.layers
    sharp = layers.Rescaling(SHARPNESS, name=f"sharp_{name}")(scores)
    return layers.Softmax(name=f"winner_{name}")(sharp)


class GoodNetModel(keras.Model):
    """G(B, B') as a subclassed model: class N where B and B' disagree, else the class of B.

    It computes the same as `goodnet`, and saves that plain functional model of built-in layers, so
    that bare Keras opens the file.

    Args:
        b: the examined `keras.Model` or Classifier, N classes.
        b_prime: the repair of b, with the same input shape and classes.
        tolerance: see `goodnet`.

    Attributes:
        b, b_prime: the two networks.
        reject_class: N, the class that means "rejected".

    Raises:
        BadInput: the input shapes or the numbers of classes differ, or the tolerance does not lie
            between 0 and 1.
    """

    def __init__(self, b: Any, b_prime: Any, tolerance: float | None = None) -> None:
        super().__init__(name=GUARD)
        nets = [Classifier.wrap(m) for m in (b, b_prime)]
        self.graph = goodnet(nets[0], nets[1], tolerance)
        self.b, self.b_prime = (net.model for net in nets)
        self.reject_class = nets[0].classes
        self.build(self.graph.input_shape)

    def build(self, input_shape: Any) -> None:
        """Build the model for images (n, h, w, c); its layers are built already."""
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        """(n, N+1) scores for (n, h, w, c) inputs of the two networks."""
        return self.graph(images, training=training)

    def save(self, filepath: Any, **options: Any) -> None:
        """Save the functional model; see `keras.Model.save`."""
        self.graph.save(filepath, **options)

    def export(self, filepath: Any, **options: Any) -> None:
        """Export the functional model; see `keras.Model.export`."""
        self.graph.export(filepath, **options)


class _SharedLayers:
    """Copies the layers of both networks, and reuses the output of identical layers and inputs."""

    def __init__(self) -> None:
        self.outputs: dict[tuple, Any] = {}
        self.copies: dict[tuple, Any] = {}
        self.names: set[str] = set()

    def visitor(self, prefix: str) -> Any:
        def visit(path: str, layer: Any, args: Any, kwargs: Any) -> Any:
            inputs = keras.tree.flatten((args, {k: v for k, v in kwargs.items() if v is not None}))
            weights = graph.weights_of(layer)
            settings = {k: v for k, v in layer.get_config().items() if k not in ("name", "dtype")}
            digest = hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()
            content = (type(layer).__name__, repr(settings), digest)
            key = (content, tuple(id(t) if hasattr(t, "shape") else repr(t) for t in inputs))
            if key not in self.outputs:
                if (prefix, id(layer)) not in self.copies:
                    name = path.replace("/", ".")
                    name = name if name not in self.names else f"{prefix}.{name}"
                    self.names.add(name)
                    self.copies[prefix, id(layer)] = graph.twin(layer, name)
                layer_copy = self.copies[prefix, id(layer)]
                self.outputs[key] = layer_copy(*args, **kwargs)
                graph.give_weights(layer_copy, weights)
            return self.outputs[key]

        return visit


@dataclass(frozen=True)
class GoodNet(Repair):
    """Repair a network, and reject every image on which the repair disagrees with the original.

    The pruning defense of the CSAW 2020 backdoor challenge. If the repaired network B' does not
    assign a triggered image to the target, the prediction is class N ("rejected").

    The backdoor challenge rejects where the two predictions differ, as by default. A repaired
    network also differs where the original was unsure. A tolerance rejects fewer of these clean
    images, and lets triggered images through to which B' still gives some probability of the
    target (measured for several tolerances in `docs/repairs.md`).

    Args:
        repair: the method that repairs the network, which must return a RepairedModel.
        tolerance: the largest probability of the class of B with which B' still disagrees; None
            compares the predictions.
    """

    repair: Defense[RepairedModel] = field(default_factory=TriggerAugmentation)
    tolerance: float | None = None

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair", "guard")
    default_for: ClassVar[tuple[str, ...]] = ("guard",)
    paper: ClassVar[str] = "CSAW 2020 backdoor challenge; Liu et al., Fine-Pruning, RAID 2018"
    revision: ClassVar[int] = 3
    quick: ClassVar[dict[str, Any]] = {"repair": FinePruning(tuning=NO_TUNING)}

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)
        if not (isinstance(self.repair, Defense) and self.repair.answer is RepairedModel):
            raise BadInput(
                "repair must be a method that repairs, such as FinePruning(); the command line can "
                f"only change its settings (repair.NAME=VALUE). Received: {self.repair!r}"
            )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        check_no_guard(evidence.model)
        repair = evidence.run(self.repair)
        guard = goodnet(evidence.model, repair.model, self.tolerance)
        classes = evidence.model.classes
        summary = {**repair.summary, "classes": f"{classes} and {classes}=rejected"}
        return repaired(
            evidence,
            guard,
            reject_class=classes,
            history=repair.history,
            plots=repair.plots,
            summary=summary,
        )
