"""Channels of a layer: the activations that rank them, and how to silence them."""

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
"""Layers that process each channel separately, so that a silent channel affects no other."""
NONLINEAR = frozenset(["Activation", "ReLU", "LeakyReLU", "PReLU", "ELU"])
POOLS = frozenset(
    ["MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"]
)
KERNELS = frozenset(["Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"])


def channel_layers(model: Any) -> list[str]:
    """Paths of the Conv2D and SeparableConv2D layers, in topological order."""
    return [p for p, x in walk(model) if type(x).__name__ in ("Conv2D", "SeparableConv2D")]


def hidden_dense(model: Any) -> list[str]:
    """Paths of all dense layers except the last one, in topological order."""
    return [p for p, x in walk(model) if type(x).__name__ == "Dense"][:-1]


def following(model: Any, layer: str) -> list[tuple[str, Any]]:
    """(path, layer) pairs of the channel-wise layers after a layer.

    The list ends at the first fork, and at the first layer that combines channels.
    """
    followers: list[tuple[str, Any]] = []
    graph = flat(model)
    current = get_layer(graph, layer.replace("/", ".") if graph is not model else layer)
    paths = {p.replace("/", ".") if graph is not model else p: p for p, _ in walk(model)}
    layer_ids = {id(x) for x in graph.layers}
    while True:
        successors = [x for x in consumers(current) if id(x) in layer_ids]
        names = {x.name for x in successors}
        if len(names) != 1 or type(successors[0]).__name__ not in CHANNELWISE:
            return followers
        current = successors[0]
        followers.append((paths[current.name], get_layer(model, paths[current.name])))


def after_activation(model: Any, layer: str, *, pool: bool = False) -> str:
    """Path of the layer whose output ranks the channels of a layer.

    Args:
        model: a Keras model.
        layer: path of the layer.
        pool: whether to use the first pooling layer after the nonlinearity, if there is one.

    Returns:
        The path of the last nonlinearity before the first pooling layer, or `layer` if there is no
        nonlinearity; with `pool`, the path of that pooling layer if there is one.
    """
    ranked_at = layer
    for path, follower in following(model, layer):
        kind = type(follower).__name__
        if kind in NONLINEAR:
            ranked_at = path
        if kind in POOLS:
            return path if pool else ranked_at
    return ranked_at


def mask_layer(model: Any, layer: str, ranked_at: str) -> str:
    """Path of the layer whose output is masked to silence channels of `layer`.

    It is `ranked_at`, or the last BatchNormalization if that comes later: `silence` also sets the
    channels of the following BatchNormalization layers to zero.
    """
    paths = [path for path, _ in following(model, layer)]
    norms = [p for p, x in following(model, layer) if type(x).__name__ == "BatchNormalization"]
    if norms and (ranked_at == layer or paths.index(norms[-1]) > paths.index(ranked_at)):
        return norms[-1]
    return ranked_at


def pruned_activation(model: Any, layer: str, until: str) -> np.ndarray:
    """(channels,) constant output of the layer `until` for silenced channels of `layer`.

    PReLU, pooling and dropout do not change a constant 0.
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


def check_channels(model: Any, layer: str) -> Any:
    """The layer at a path, whose channels can be silenced.

    Raises:
        BadInput: if the layer does not exist or is neither a convolution nor a dense layer.
    """
    target = get_layer(model, layer)
    if type(target).__name__ not in KERNELS:
        raise BadInput(
            f"Only channels of convolutions and dense layers can be silenced; '{layer}' is a "
            f"{type(target).__name__}."
        )
    return target


def silence(model: Any, layer: str, chosen: Sequence[int] | np.ndarray) -> None:
    """Set channels of a layer to zero, in place.

    The kernel and bias of the channels become 0. In the BatchNormalization layers that follow, so
    do gamma, beta and the moving mean: otherwise they would make the channels nonzero again.

    Args:
        model: the model to modify; copy it first if the original is still needed.
        layer: path of a convolution or dense layer.
        chosen: channel numbers.

    Raises:
        BadInput: if the layer does not exist or is neither a convolution nor a dense layer.
    """
    chosen = np.asarray(chosen, int)
    target = check_channels(model, layer)
    weights = target.get_weights()
    if type(target).__name__ == "Conv2DTranspose":
        weights[0][:, :, chosen, :] = 0.0
    elif type(target).__name__ == "DepthwiseConv2D":
        kernel = weights[0].reshape(*weights[0].shape[:2], -1)
        kernel[..., chosen] = 0.0
        weights[0] = kernel.reshape(weights[0].shape)
    else:
        index = 1 if type(target).__name__ == "SeparableConv2D" else 0
        weights[index][..., chosen] = 0.0
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
