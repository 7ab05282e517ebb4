"""Infer the preprocessing and the kind of output of a model."""

from typing import Any, Literal

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.metrics import Rate
from keras_backdoor.network.keras_private import producer, users
from keras_backdoor.network.preprocessing import PRESETS, Preprocessing

Output = Literal["probabilities", "logits", "sigmoid", "sigmoids"]
"""`probabilities` sum to 1, `sigmoid` is the probability of class 1 of two, and `sigmoids` are one
independent probability for each class."""
USUAL = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))
"""Ranges that the first layers of a model usually map to."""
NORMALIZED = tuple(p for p in PRESETS.values() if len(p.low) == 3)
"""Preprocessings with a value for each channel that the first layers of a model may contain."""
RANGES = ("0:1", "-1:1", "0:255")
"""Candidates for an unknown preprocessing, in order of preference.

On labeled images, the first range whose accuracy is close to the best one is used: a network with
small biases has a similar accuracy on inputs that are too large, but not on inputs that are too
small.
"""


def own_preprocessing(model: Any) -> Preprocessing | None:
    """The preprocessing implied by `Rescaling` layers at the input, or None.

    It is the range among `RANGES` that the layers map to one in `USUAL` or, for color images,
    to the values of a black and a white pixel in `NORMALIZED`. The result is None if no range or
    several ranges qualify.
    """
    scale, offset, number = np.ones(1), np.zeros(1), 0
    for layer in leading_layers(model):
        kind = type(layer).__name__
        if kind == "Rescaling":
            scale = scale * np.ravel(layer.scale)
            offset = offset * np.ravel(layer.scale) + np.ravel(layer.offset)
            number += 1
        elif kind not in ("Flip", "GetItem", "Identity", "Take"):
            break
    if not number or (np.allclose(scale, 1) and np.allclose(offset, 0)):
        return None
    fits = []
    for candidate in map(Preprocessing.of, RANGES):
        black, white = (v[0] * scale + offset for v in (candidate.low, candidate.high))
        plain = [np.allclose(black, a, atol=0.01) and np.allclose(white, b, atol=0.01)
                 for a, b in USUAL]  # fmt: skip
        normal = [
            len(black) == 3
            and np.allclose(np.sort(black), np.sort(p.low), rtol=0.02)
            and np.allclose(np.sort(white), np.sort(p.high), rtol=0.02)
            for p in NORMALIZED
        ]
        if any(plain) or any(normal):
            fits.append(candidate)
    return fits[0] if len(fits) == 1 else None


def leading_layers(model: Any) -> list[Any]:
    """The layers and operations after the input up to the first fork, also in nested models."""
    chain: list[Any] = []
    tensor = model.inputs[0]
    while True:
        following = users(model, tensor)
        if len(following) != 1:
            return chain
        layer, tensor = following[0]
        if hasattr(layer, "layers"):
            return [*chain, *leading_layers(layer)]
        chain.append(layer)


def output_kind(model: Any) -> Output:
    """The kind of output: probabilities, logits, a single sigmoid or a sigmoid for each class.

    It follows from the last activation. If that is inconclusive, it is inferred from the outputs
    for random noise. A model too large for this is assumed to return logits, because softmax does
    not change the predicted class.
    """
    width, name = int(model.outputs[0].shape[-1]), last_activation(model)
    if name == "softmax" and width > 1:
        return "probabilities"
    if name == "sigmoid":
        return "sigmoid" if width == 1 else "sigmoids"
    if name == "linear":
        return "logits"
    outputs = try_out(model)
    if outputs is None:
        return "logits"
    inside = bool((outputs >= 0).all() and (outputs <= 1 + 1e-5).all())
    if width == 1:
        return "sigmoid" if inside else "logits"
    if not inside:
        return "logits"
    return "probabilities" if np.allclose(outputs.sum(-1), 1, atol=1e-3) else "sigmoids"


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


def too_few(labels: np.ndarray, classes: int) -> bool:
    """Whether even an accuracy of 100 % on these labels would be at chance; see `at_chance`."""
    return at_chance(Rate(len(labels), len(labels)), labels, classes)
