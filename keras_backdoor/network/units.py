"""What a model's pixels and outputs mean, as far as the model itself tells."""

from typing import Any, Literal

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.metrics import Rate
from keras_backdoor.network.keras_private import producer

Range = tuple[float, float]
Output = Literal["probabilities", "logits", "sigmoid"]
RANGES: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Input ranges that are tried where nothing tells the range.

A net with small biases answers much the same on larger inputs, and not on smaller ones: so the
first one within `TIE` of the best accuracy is taken.
"""
TIE = 0.01
USUAL = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))
"""Ranges that a first layer `Rescaling` usually maps to."""


def rescaling_range(model: Any) -> Range | None:
    """The input range that a first layer `Rescaling` implies, or None.

    It is the one of `RANGES` that the layer maps to another usual range; None where no range or
    more than one does.
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
    """By the last activation; where that does not tell, by the values on noise.

    A model too large to be run for that is taken to answer logits: the classes are the same.
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
    """The outputs for noise of two ranges, or None where the model is too large for a look."""
    if _too_large(model):
        return None
    shape = [n or 64 for n in model.inputs[0].shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype(np.float32)
    with tf.init_scope():
        return np.concatenate([model(x, training=False) for x in (noise, noise / 255)])


def _too_large(model: Any) -> bool:
    """Whether running a stranger's model twice, just to look at its output, may take long."""
    shapes = [tuple(x.output.shape[1:]) for x in model.layers]
    sizes = [float(np.prod([n or 64 for n in shape])) for shape in shapes]
    return max(sizes[:1], default=0) > 2**19 or sum(sizes) > 2**25


def last_activation(model: Any) -> str | None:
    """Name of the activation that makes the output, also inside nested models."""
    layer = model
    while hasattr(layer, "layers"):
        made = producer(layer.outputs[0])
        if made is None:
            return None
        layer, _ = made
        if type(layer).__name__ in ("Dropout", "Reshape", "Flatten"):
            return None
    if type(layer).__name__ == "Softmax":
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def at_chance(right: Rate, labels: np.ndarray, classes: int) -> bool:
    """Whether an accuracy is no better than naming always the same class.

    Chance is the share of the most frequent label, at most a half (so that data of one class can
    be judged) and at least one in `classes`; three standard deviations are allowed for.
    """
    share = np.bincount(labels).max() / len(labels)
    chance = max(min(share, 0.5), 1 / classes)
    return float(right) <= chance + 3 * np.sqrt(chance * (1 - chance) / right.of)
