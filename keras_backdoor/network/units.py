"""Infer the input range and the kind of output of a model."""

from typing import Any, Literal

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.metrics import Rate
from keras_backdoor.network.keras_private import producer

Range = tuple[float, float]
Output = Literal["probabilities", "logits", "sigmoid"]
RANGES: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Candidate input ranges for a model whose range is unknown, in order of preference.

The first range within `TIE` of the best accuracy is used: a network with small biases has a similar
accuracy on inputs that are too large, but not on inputs that are too small.
"""
TIE = 0.01
"""Difference of two accuracies up to which they count as equal."""
USUAL = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))
"""Ranges that a `Rescaling` layer at the input usually maps to."""


def rescaling_range(model: Any) -> Range | None:
    """The input range implied by a `Rescaling` layer at the input, or None.

    It is the range in `RANGES` that the layer maps to one in `USUAL`. The result is None if no
    range or several ranges qualify.
    """
    first: Any = next((x for x in model.layers if type(x).__name__ != "InputLayer"), None)
    if type(first).__name__ != "Rescaling":
        return None
    scale, offset = np.asarray(first.scale), np.asarray(first.offset)
    if scale.ndim or offset.ndim:
        return None
    fits = [
        bounds
        for bounds in RANGES
        if any(np.allclose(np.array(bounds) * scale + offset, to, atol=0.01) for to in USUAL)
        and not (scale == 1 and offset == 0)
    ]
    return fits[0] if len(fits) == 1 else None


def output_kind(model: Any) -> Output:
    """The kind of output: probabilities, logits or a single sigmoid.

    It follows from the last activation. If that is inconclusive, it is inferred from the outputs
    for random noise. A model too large for this is assumed to return logits, because softmax does
    not change the predicted class.
    """
    width, name = int(model.outputs[0].shape[-1]), last_activation(model)
    if name == "softmax" and width > 1:
        return "probabilities"
    if name == "sigmoid" and width == 1:
        return "sigmoid"
    if name == "linear":
        return "logits"
    outputs = try_out(model)
    if outputs is None:
        return "logits"
    inside = bool((outputs >= 0).all() and (outputs <= 1 + 1e-5).all())
    if width == 1:
        return "sigmoid" if inside else "logits"
    return "probabilities" if inside and np.allclose(outputs.sum(-1), 1, atol=1e-3) else "logits"


def try_out(model: Any) -> np.ndarray | None:
    """The outputs for noise in 0..255 and in 0..1, or None if the model is too large to run."""
    if _too_large(model):
        return None
    shape = [n or 64 for n in model.inputs[0].shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype(np.float32)
    with tf.init_scope():
        return np.concatenate([model(x, training=False) for x in (noise, noise / 255)])


def _too_large(model: Any) -> bool:
    """Whether running an untrusted model on two images may take too long."""
    shapes = [tuple(x.output.shape[1:]) for x in model.layers]
    sizes = [float(np.prod([n or 64 for n in shape])) for shape in shapes]
    return max(sizes[:1], default=0) > 2**19 or sum(sizes) > 2**25


def last_activation(model: Any) -> str | None:
    """Name of the activation of the output, also inside nested models, or None if unknown."""
    layer = model
    while hasattr(layer, "layers"):
        operation_and_inputs = producer(layer.outputs[0])
        if operation_and_inputs is None:
            return None
        layer, _ = operation_and_inputs
        if type(layer).__name__ in ("Dropout", "Reshape", "Flatten"):
            return None
    if type(layer).__name__ == "Softmax":
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def at_chance(accuracy: Rate, labels: np.ndarray, classes: int) -> bool:
    """Whether an accuracy is no better than that of a constant prediction.

    Chance is the share of the most frequent label, limited to at least 1 / classes and at most 1/2;
    the upper limit allows data with a single class. An accuracy is at chance if it is at most three
    standard deviations above it.

    Args:
        accuracy: the measured accuracy.
        labels: (n,) labels of the images.
        classes: number of classes.
    """
    share = np.bincount(labels).max() / len(labels)
    chance = max(min(share, 0.5), 1 / classes)
    return float(accuracy) <= chance + 3 * np.sqrt(chance * (1 - chance) / accuracy.of)
