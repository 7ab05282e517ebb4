"""The weights and biases that lead to each class, of the last linear layer of a model."""

from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.network.graph import flat, weights_of
from keras_backdoor.network.keras_private import producer

AFTER = frozenset(
    ["Activation", "AveragePooling2D", "Dropout", "Flatten", "GlobalAveragePooling2D",
     "GlobalMaxPooling2D", "Identity", "MaxPooling2D", "Reshape", "Rescaling", "Softmax"]
)  # fmt: skip
"""Layers after the last linear one that treat all classes alike."""
BEFORE = frozenset(["AveragePooling2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "Identity"])
"""Layers that a factor for each channel can be moved through."""


def class_weights(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the last linear layer, a dense layer or a convolution, by class.

    Batch normalization right before it is part of the weights: with y = gamma (x - mean) / s + beta
    and s = sqrt(variance + epsilon), w y + b is (w gamma / s) x + b + w (beta - gamma mean / s).

    Args:
        model: a functional or sequential model with one output for each class.

    Returns:
        (weights (n, k), biases (k,)), float64.

    Raises:
        BadInput: the outputs do not come from a single linear layer.
    """
    graph = flat(model)
    layer, before = _producer(graph.outputs[0], AFTER)
    kind = type(layer).__name__
    if kind not in ("Dense", "Conv2D") or before is None:
        raise BadInput(
            "The scores must come from a dense layer or a convolution. "
            f"Received a model that ends with {'another graph' if layer is None else kind}."
        )
    kernel, *more = weights_of(layer)
    weights = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    biases = np.asarray(more[0], np.float64) if more else np.zeros(weights.shape[1])
    if weights.shape[1] != int(graph.outputs[0].shape[-1]):
        raise BadInput(
            f"The last linear layer must have one output for each class. Received: "
            f"{weights.shape[1]} outputs for {graph.outputs[0].shape[-1]} classes"
        )
    norm, normalized = _producer(before, BEFORE)
    if type(norm).__name__ != "BatchNormalization":
        return weights, biases
    scale, offset = _as_affine(norm)
    times, rest = divmod(len(weights), len(scale))
    if rest or len(scale) != normalized.shape[-1] or getattr(layer, "groups", 1) != 1:
        raise BadInput(
            "Batch normalization before the last layer must be that of its channels, the last axis."
        )
    offset = np.tile(offset, times)
    return weights * np.tile(scale, times)[:, None], biases + offset @ weights


def _producer(tensor: Any, passed: frozenset[str]) -> tuple[Any, Any]:
    """The layer before a tensor, beyond layers that are passed over, and its input; or None."""
    while True:
        found = producer(tensor)
        if found is None or len(found[1]) != 1:
            return (None, None) if found is None else (found[0], None)
        layer, (tensor,) = found
        linear = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if type(layer).__name__ not in passed or linear == "relu":
            return layer, tensor


def _as_affine(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Batch normalization as y = scale x + offset."""
    scale = 1 / np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon)
    scale = scale * np.asarray(norm.gamma) if norm.scale else scale
    offset = np.asarray(norm.beta, np.float64) if norm.center else np.zeros_like(scale)
    return scale, offset - scale * np.asarray(norm.moving_mean)
