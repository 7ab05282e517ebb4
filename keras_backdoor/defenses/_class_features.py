"""The features of training images in a layer of a network, class by class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from keras_backdoor.defenses.base import Evidence
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph
from keras_backdoor.network.activations import features

FEWEST = 10
"""The number of images below which the features of a class are not examined."""


@dataclass(frozen=True, eq=False)
class ClassFeatures:
    """The features of labeled images, whose classes are examined one by one.

    Attributes:
        features: (n, d) float32.
        labels: (n,) int64.
        layer: the path of the layer that the features are from.
        skipped: class -> why it is not examined.
    """

    features: np.ndarray
    labels: np.ndarray
    layer: str = ""
    skipped: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        broken = ~np.isfinite(self.features).all(axis=1)
        if broken.any():
            raise BadInput(
                f"The activations of '{self.layer}' are NaN or infinite for {broken.sum()} images, "
                "so they cannot be examined: check the weights of the model and --preprocess."
            )
        for label in np.unique(self.labels):
            rows = self.rows(label)
            if len(rows) < FEWEST:
                number = f"{len(rows)} image{'' if len(rows) == 1 else 's'}"
                self.skipped[int(label)] = f"{number}, fewer than {FEWEST}"
            elif (self.features[rows] == self.features[rows[0]]).all():
                self.skipped[int(label)] = "all activations are equal"

    @property
    def examined(self) -> list[int]:
        """The classes that are examined, in increasing order."""
        return [int(c) for c in np.unique(self.labels) if int(c) not in self.skipped]

    def rows(self, label: int) -> np.ndarray:
        """(m,) the rows of the images with a label."""
        return np.flatnonzero(self.labels == label)

    def of(self, label: int) -> np.ndarray:
        """(m, d) float64, the features of a class without those that are constant in it."""
        values = self.features[self.rows(label)]
        return values[:, (values != values[0]).any(axis=0)].astype(np.float64)

    def map(self, function: Callable[[np.ndarray], Any]) -> dict[int, Any]:
        """The results of a function of the features of each examined class, by class.

        The matrices are small, so that several threads would wait for each other most of the time.
        """
        with threadpool_limits(1):
            return {label: function(self.of(label)) for label in self.examined}

    def embedding(self, points: dict[int, np.ndarray]) -> np.ndarray:
        """(n, 2) the first two coordinates of each image; NaN where there is none.

        Args:
            points: class -> (m, k) coordinates of its images.
        """
        out = np.full((len(self.labels), 2), np.nan)
        for label, own in points.items():
            out[self.rows(label), : own.shape[1]] = own[:, :2]
        return out

    def notes(self) -> tuple[dict[str, str], str]:
        """(rows, reason): what a summary says of the skipped classes, and what is inconclusive."""
        if not self.skipped:
            return {}, ""
        shown = [f"{label} ({reason})" for label, reason in self.skipped.items()]
        text = ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")
        return {"classes that were not examined": text}, (
            f"{len(shown)} class{'' if len(shown) == 1 else 'es'} could not be examined: {text}"
        )


def class_features(evidence: Evidence, layer: str | None) -> ClassFeatures:
    """The features of the training images, after the activation function of a layer.

    Args:
        evidence: the evidence of the run, with labeled training images.
        layer: the path of the layer; by default that of `penultimate`. Feature maps are flattened.

    Raises:
        BadInput: the layer does not exist, or an activation is not finite.
    """
    model, train = evidence.model, evidence.train
    layer = layer or penultimate(model.model)
    path = channels.after_activation(model.model, layer)

    def stream() -> dict[str, Any]:
        return {"features": features(model, train, path).reshape(len(train), -1)}

    values = evidence.part("features", stream)["features"]
    return ClassFeatures(values, train.known_labels, layer)


def penultimate(model: Any) -> str:
    """The path of the layer whose output a classifier decides on.

    It is the last hidden dense layer, if nothing but an activation, normalization or dropout
    follows before the last layer with weights. Otherwise it is the layer before the last one, such
    as a global pooling layer, or the sum of two branches.
    """
    layers = list(graph.walk(model))
    last = max((i for i, (_, layer) in enumerate(layers) if layer.weights), default=0)
    if last == 0:
        raise BadInput("The model has no hidden layer: name one with --set layer=NAME.")
    for path, layer in reversed(layers[:last]):
        kind = type(layer).__name__
        if kind == "Dense":
            return path
        if kind not in graph.NOISE and kind not in ("Activation", "ReLU", "BatchNormalization"):
            break
    return layers[last - 1][0]
