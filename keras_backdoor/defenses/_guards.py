"""What guards have in common: an additional output, which means that the input is rejected."""

from typing import Any

from keras_backdoor._internals.backend import keras
from keras_backdoor.network.classifier import GUARD, Classifier

SHARPNESS = 1e12
"""The factor of the scores that makes a float32 softmax one-hot."""


def probabilities(net: Classifier, scores: Any, prefix: str) -> Any:
    """The class probabilities of a network as a symbolic tensor.

    Args:
        net: the network.
        scores: the symbolic output of the network.
        prefix: the end of the names of the added layers.

    Returns:
        (n, classes) probabilities.
    """
    layers = keras.layers
    if scores.shape[-1] > 1:
        if net.output in ("probabilities", "sigmoids"):
            return scores
        return layers.Softmax(name=f"probabilities_{prefix}")(scores)
    if net.output == "logits":
        scores = layers.Activation("sigmoid", name=f"sigmoid_{prefix}")(scores)
    other = layers.Rescaling(-1.0, offset=1.0, name=f"negative_{prefix}")(scores)
    return layers.Concatenate(name=f"both_{prefix}")([other, scores])


def with_rejection(image: Any, scores: Any, suspicion: Any, limit: float) -> Any:
    """A network that rejects images above a limit.

    With a = 1 if the suspicion is above the limit, else a = 0, the outputs are [(1 - a) p, a].

    Args:
        image: the symbolic input.
        scores: (b, classes) symbolic probabilities p.
        suspicion: (b, 1) symbolic suspicion.
        limit: the largest suspicion that is accepted.

    Returns:
        A `keras.Model` of built-in layers with one output more.
    """
    layers = keras.layers
    excess = layers.Rescaling(1.0, offset=-limit, name="guard.excess")(suspicion)
    above = layers.Rescaling(SHARPNESS, name="guard.sharp")(excess)
    reject = layers.ReLU(max_value=1.0, name="guard.reject")(above)
    accept = layers.Rescaling(-1.0, offset=1.0, name="guard.accept")(reject)
    accepted = layers.Multiply(name="guard.accepted")([scores, accept])
    output = layers.Concatenate(name="guard.scores")([accepted, reject])
    return keras.Model(image, output, name=GUARD)
