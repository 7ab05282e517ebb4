"""Cut a model at a layer, read activations, silence channels: the one place that does so.

A layer is named by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._backend import keras, tf
from keras_backdoor._files import writing
from keras_backdoor.classifier import Classifier
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples

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


def get_layer(model: Any, path: str) -> Any:
    """The layer of a path, also inside nested models.

    Raises:
        BadInput: no such layer; the message lists those there are.
    """
    layer = model
    for part in path.split("/"):
        inner = {x.name: x for x in getattr(layer, "layers", [])}
        if part not in inner:
            known = [p for p, x in walk(model) if x.weights or not hasattr(x, "layers")]
            raise BadInput(f"The model has no layer '{path}'; its layers: {', '.join(known)}.")
        layer = inner[part]
    return layer


def walk(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs (path, layer) in topological order, nested models' layers in place."""
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            yield from walk(layer, f"{path}/")
        elif type(layer).__name__ != "InputLayer":
            yield path, layer


def copy(model: Any) -> Any:
    """An independent copy: same architecture, names and weights."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def replay(model: Any, tensor: Any, visit: Any, prefix: str = "") -> Any:
    """Run a model's graph on a tensor, nested models inlined, through `visit`.

    Args:
        model: a functional or sequential model with one input.
        tensor: symbolic input.
        visit: `visit(path, layer, args, kwargs) -> tensor`, called for every layer.
        prefix: of the paths.

    Returns:
        The symbolic output.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            return replay(layer, args[0], visit, f"{path}/")
        return visit(path, layer, args, kwargs)

    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_run_through_graph"):
        raise BadInput(
            "Only functional and sequential models can be cut; this one is a subclassed model: "
            f"{type(model).__name__}."
        )

    def wrapped(operation: Any) -> Any:
        return lambda *args, **kwargs: call(operation, *args, **kwargs)

    return graph._run_through_graph([tensor], operation_fn=wrapped)


def inlined(model: Any) -> Any:
    """A functional copy without nested models; `backbone/conv_3` is called `backbone.conv_3`."""
    tensor = keras.Input(model.inputs[0].shape[1:], name="image")
    made: dict[int, Any] = {}

    def visit(path: str, layer: Any, args: Any, kwargs: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = twin(layer, path.replace("/", "."))
        result = made[id(layer)](*args, **kwargs)
        made[id(layer)].set_weights(layer.get_weights())
        return result

    return keras.Model(tensor, replay(model, tensor, visit), name=model.name)


def twin(layer: Any, name: str) -> Any:
    """A new layer of the same settings under another name; its weights are set by the caller."""
    settings = {**layer.get_config(), "name": name}
    return layer.__class__.from_config(settings)


def flat(model: Any) -> Any:
    """The model itself where nothing is nested in it, else `inlined(model)`."""
    return inlined(model) if any(hasattr(x, "layers") for x in model.layers) else model


def split(model: Any, layer: str) -> tuple[Any, Any]:
    """Cut a model behind a layer: tail(head(x)) == model(x).

    Args:
        model: a Keras model or Classifier.
        layer: path of the layer whose output is the cut.

    Returns:
        (head, tail), two Keras models. They share the model's weights, unless it has nested
        models: then both are copies.

    Raises:
        BadInput: no such layer, or a branch of the model runs past it.
    """
    model = model.model if isinstance(model, Classifier) else model
    get_layer(model, layer)
    graph = flat(model)
    cut = get_layer(graph, layer.replace("/", ".") if graph is not model else layer).output
    head = keras.Model(graph.inputs[0], cut, name="head")
    if cut is graph.outputs[0]:
        return head, keras.Sequential([keras.Input(cut.shape[1:]), keras.layers.Identity()])
    if _reaches_input(graph, cut):
        raise BadInput(
            f"The model cannot be cut at '{layer}': another branch runs past it. Choose a layer "
            "that every path goes through."
        )
    return head, keras.Model(cut, graph.outputs[0], name="tail")


def _reaches_input(graph: Any, cut: Any) -> bool:
    """Whether the input can be reached from the output without passing the cut."""
    waiting, seen = list(graph.outputs), {id(cut)}
    inputs = {id(t) for t in graph.inputs}
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in inputs:
            return True
        operation, node, _ = tensor._keras_history
        waiting += operation._inbound_nodes[node].input_tensors
    return False


def channel_layers(model: Any) -> list[str]:
    """Paths of the convolutions, in topological order."""
    return [p for p, x in walk(model) if type(x).__name__ in ("Conv2D", "SeparableConv2D")]


def following(model: Any, layer: str) -> list[tuple[str, Any]]:
    """The channel-wise layers that follow a layer one by one, up to the next fork or mixing."""
    found: list[tuple[str, Any]] = []
    graph = flat(model)
    here = get_layer(graph, layer.replace("/", ".") if graph is not model else layer)
    paths = {p.replace("/", ".") if graph is not model else p: p for p, _ in walk(model)}
    inside = {id(x) for x in graph.layers}
    while True:
        nodes = [n for n in here._outbound_nodes if id(n.operation) in inside]
        names = {n.operation.name for n in nodes}
        if len(names) != 1 or type(nodes[0].operation).__name__ not in CHANNELWISE:
            return found
        here = nodes[0].operation
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


def resting(model: Any, layer: str, until: str) -> np.ndarray:
    """(channels,) output at `until` of a channel of `layer` that has been silenced."""
    start = get_layer(model, layer)
    activation = getattr(start, "activation", None)
    value = tf.zeros((1, 1, 1, channels(start)))
    value = activation(value) if activation is not None else value
    for path, follower in following(model, layer) if layer != until else []:
        kind = type(follower).__name__
        if kind == "BatchNormalization":
            value = tf.zeros_like(value)
        elif kind in NONLINEAR:
            value = follower(value)
        if path == until:
            break
    return np.asarray(value).reshape(-1)


def channels(layer: Any) -> int:
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


def features(
    classifier: Classifier,
    samples: Samples,
    layer: str,
    *,
    out: Path | str | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Activations behind a layer for all samples.

    Args:
        classifier: with a known input range.
        samples: images; labels are not used.
        layer: path of the layer.
        out: `.npy` file to write to; the result is then a read-only memory map, and memory
            does not grow with the data.
        batch_size: images in a batch.

    Returns:
        (n, …) float32.
    """
    head = _head(classifier, layer)
    shape = (len(samples), *(int(s) for s in head.outputs[0].shape[1:]))
    batches = classifier.stream(samples, head, batch_size)
    if out is None:
        return _fill(np.empty(shape, np.float32), batches)
    with writing(out, force=True) as partial:
        array = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        _fill(array, batches)
        array.flush()
        del array
    stored: np.ndarray = np.load(out, mmap_mode="r", allow_pickle=False)
    return stored


def mean_activation(classifier: Classifier, samples: Samples, layer: str) -> np.ndarray:
    """(channels,) mean activation of every channel behind a layer, in one streaming pass."""
    head = _head(classifier, layer)
    total, count = 0.0, 0
    for batch in classifier.stream(samples, head):
        total = total + batch.sum(axis=tuple(range(batch.ndim - 1)), dtype=np.float64)
        count += int(np.prod(batch.shape[:-1]))
    return np.asarray(total) / count


def _head(classifier: Classifier, layer: str) -> Any:
    key = ("head", layer)
    if key not in classifier._compiled:
        classifier._compiled[key] = split(classifier, layer)[0]
    return classifier._compiled[key]


def _fill(array: np.ndarray, batches: Any) -> np.ndarray:
    start = 0
    for batch in batches:
        array[start : start + len(batch)] = batch
        start += len(batch)
    return array
