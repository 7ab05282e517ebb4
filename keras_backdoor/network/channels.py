"""Channels of a layer: where they are ranked, and how they are silenced."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.errors import BadInput
from keras_backdoor.network.graph import flat, get_layer, walk
from keras_backdoor.network.keras_private import consumers

CHANNELWISE = frozenset(
    [
        "Activation",
        "ReLU",
        "LeakyReLU",
        "PReLU",
        "ELU",
        "BatchNormalization",
        "Dropout",
        "SpatialDropout2D",
        "GaussianDropout",
        "GaussianNoise",
        "MaxPooling2D",
        "AveragePooling2D",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "ZeroPadding2D",
        "Cropping2D",
        "UpSampling2D",
    ]
)
"""Layers that treat every channel by itself, so that a silent channel stays one channel."""
NONLINEAR = frozenset(["Activation", "ReLU", "LeakyReLU", "PReLU", "ELU"])
POOLS = frozenset(
    ["MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"]
)
KERNELS = frozenset(["Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"])


def channel_layers(model: Any) -> list[str]:
    """Paths of the convolutions, in topological order."""
    return [p for p, x in walk(model) if type(x).__name__ in ("Conv2D", "SeparableConv2D")]


def hidden_dense(model: Any) -> list[str]:
    """Paths of the dense layers but the last one, in topological order."""
    return [p for p, x in walk(model) if type(x).__name__ == "Dense"][:-1]


def following(model: Any, layer: str) -> list[tuple[str, Any]]:
    """The channel-wise layers that follow a layer one by one, up to the next fork or mixing."""
    found: list[tuple[str, Any]] = []
    graph = flat(model)
    here = get_layer(graph, layer.replace("/", ".") if graph is not model else layer)
    paths = {p.replace("/", ".") if graph is not model else p: p for p, _ in walk(model)}
    inside = {id(x) for x in graph.layers}
    while True:
        after = [operation for operation in consumers(here) if id(operation) in inside]
        names = {operation.name for operation in after}
        if len(names) != 1 or type(after[0]).__name__ not in CHANNELWISE:
            return found
        here = after[0]
        found.append((paths[here.name], get_layer(model, paths[here.name])))


def after_activation(model: Any, layer: str, *, pool: bool = False) -> str:
    """Where the channels of a layer are ranked: behind its nonlinearity, or the pool after it."""
    place = layer
    for path, follower in following(model, layer):
        kind = type(follower).__name__
        if kind in NONLINEAR:
            place = path
        if kind in POOLS:
            return path if pool else place
    return place


def mask_layer(model: Any, layer: str, place: str) -> str:
    """Where a silenced channel is at rest: behind `place` and the last BatchNormalization.

    `silence` also silences the BatchNormalizations that follow a layer, so what it does is seen
    behind the last of them.
    """
    paths = [path for path, _ in following(model, layer)]
    normalised = [p for p, x in following(model, layer) if type(x).__name__ == "BatchNormalization"]
    if normalised and (place == layer or paths.index(normalised[-1]) > paths.index(place)):
        return normalised[-1]
    return place


def pruned_activation(model: Any, layer: str, until: str) -> np.ndarray:
    """(channels,) output at `until` of a channel of `layer` that has been silenced.

    PReLU, pools and dropout leave a constant 0 as it is.
    """
    start = get_layer(model, layer)
    activation = getattr(start, "activation", None)
    value = tf.zeros((1, 1, 1, width(start)))
    value = activation(value) if activation is not None else value
    for path, follower in following(model, layer) if layer != until else []:
        kind = type(follower).__name__
        if kind == "BatchNormalization":
            value = tf.zeros_like(value)
        elif kind in NONLINEAR and kind != "PReLU":
            value = follower(value)
        if path == until:
            break
    return np.asarray(value).reshape(-1)


def width(layer: Any) -> int:
    """Number of output channels (or units) of a layer."""
    return int(layer.output.shape[-1])


def silence(model: Any, layer: str, chosen: Sequence[int] | np.ndarray) -> None:
    """Set channels of a layer to zero, in place, with the BatchNormalization that follows.

    Kernel and bias of the channels become 0; of a following BatchNormalization gamma, beta and
    the moving mean, so that it does not bring the channel back.

    Args:
        model: the model to change; copy it first where the original is still needed.
        layer: path of a convolution or dense layer.
        chosen: channel numbers.
    """
    chosen = np.asarray(chosen, int)
    target = get_layer(model, layer)
    if type(target).__name__ not in KERNELS:
        raise BadInput(
            f"Only channels of convolutions and dense layers can be silenced; '{layer}' is a "
            f"{type(target).__name__}."
        )
    weights = target.get_weights()
    if type(target).__name__ == "Conv2DTranspose":
        weights[0][:, :, chosen, :] = 0.0
    elif type(target).__name__ == "DepthwiseConv2D":
        kernel = weights[0].reshape(*weights[0].shape[:2], -1)
        kernel[..., chosen] = 0.0
        weights[0] = kernel.reshape(weights[0].shape)
    else:
        place = 1 if type(target).__name__ == "SeparableConv2D" else 0
        weights[place][..., chosen] = 0.0
    if target.use_bias:
        weights[-1][chosen] = 0.0
    target.set_weights(weights)
    for _, follower in following(model, layer):
        if type(follower).__name__ == "BatchNormalization":
            for name in ("gamma", "beta", "moving_mean"):
                variable = getattr(follower, name, None)
                if variable is not None:
                    values = np.array(variable)
                    values[chosen] = 0.0
                    variable.assign(values)
