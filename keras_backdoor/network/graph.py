"""Look up layers by path, copy models and rebuild their graphs.

A layer is identified by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import BadInput, one_line
from keras_backdoor.network.keras_private import (
    built_shape,
    calls,
    has_graph,
    is_single_tensor,
    operations,
    run_graph,
)

_TRACED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Subclassed model -> its graph, because every trace adds nodes to the same layers."""
NOISE = frozenset(
    {"AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D",
     "SpatialDropout2D", "StochasticDepth"}
)  # fmt: skip
"""Layers that change their input at random during training and do nothing otherwise."""


def get_layer(model: Any, path: str) -> Any:
    """The layer at a path, also inside nested models.

    Raises:
        BadInput: if there is no such layer; the message lists the layers of the model.
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
    """(path, layer) pairs in topological order, including the layers of nested models."""
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            yield from walk(layer, f"{path}/")
        elif type(layer).__name__ != "InputLayer":
            yield path, layer


def copy(model: Any) -> Any:
    """An independent copy with the same architecture, layer names and weights."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    settle(clone)
    return clone


def reinitialized(model: Any) -> Any:
    """A network with the same architecture and layer names and with new, random weights.

    Layers that normalize the input with fixed statistics keep them, and frozen layers, which a
    training cannot change, keep their weights.
    """
    clone = keras.models.clone_model(model)
    for (_, layer), (_, fixed) in zip(walk(clone), walk(model), strict=True):
        if type(layer).__name__ == "Normalization" or not fixed.trainable:
            layer.set_weights(fixed.get_weights())
    settle(clone)
    return clone


@contextmanager
def all_trainable(model: Any) -> Iterator[None]:
    """In this block, a training changes frozen layers too; afterwards they are frozen again.

    Frozen batch normalization stays frozen, because it would use the statistics of the batch.
    """
    layers = [model, *_with_containers(model)]
    flags = [bool(layer.trainable) for layer in layers]
    normalizes = [type(layer).__name__ == "BatchNormalization" for layer in layers]
    _set_flags(layers, [f or not n for f, n in zip(flags, normalizes, strict=True)])
    try:
        yield
    finally:
        _set_flags(layers, flags)


def _set_flags(layers: list[Any], flags: list[bool]) -> None:
    """Set whether layers are trainable; a model sets its layers, which therefore follow it."""
    for layer, flag in zip(layers, flags, strict=True):
        if layer.trainable != flag:
            layer.trainable = flag


def _with_containers(model: Any) -> Iterator[Any]:
    """All layers of a model, each nested model before its own layers."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _with_containers(layer)


def plain_model(model: Any) -> Any:
    """A functional or sequential float32 model from any built Keras model with one input.

    The model itself is returned if it is one already. A subclassed model is traced. A model with a
    dictionary as input or output gets a single input and output. The layers of a model with another
    data type than float32, such as float16, bfloat16 or integer inputs, are copied to float32.
    Dropout that is called with `training=True` is switched off.

    Args:
        model: a built `keras.Model`. A traced model shares its weights.

    Raises:
        BadInput: the model is not built, or is a subclassed model that cannot be traced.
    """
    if not model.built:
        raise BadInput(
            "The model must be built, with one input and one output: call it once on an image."
        )
    if not has_graph(model):
        model = _traced(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return model
    if not is_single_tensor(model):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return _in_float32(model) if _is_unusual(model) else model


def _traced(model: Any) -> Any:
    """The graph of a subclassed model that was called on images."""
    if model in _TRACED:
        return _TRACED[model]
    kind = type(model).__name__
    shape = built_shape(model)
    if shape is None or len(shape) != 4:
        raise BadInput(
            f"The subclassed model {kind} must be called once on a batch of images, so that the "
            f"shape of its input is known. Received: input shape {shape}"
        )
    image = keras.Input(shape[1:], name="image")
    try:
        _TRACED[model] = keras.Model(image, model.call(image), name=model.name)
        return _TRACED[model]
    except Exception as error:  # the call of the user may raise any exception
        raise BadInput(
            f"The subclassed model {kind} cannot be converted to a functional model, which needs a "
            f"`call` of Keras layers and keras.ops only: {one_line(error)}"
        ) from error


def _is_unusual(model: Any) -> bool:
    """Whether a model has another data type than float32, or dropout that is always on."""
    kinds = {t.dtype for t in (*model.inputs, *model.outputs)}
    kinds |= {x.compute_dtype for _, x in walk(model)}
    return kinds != {"float32"} or any(_is_noisy(*call) for call in calls(model))


def _is_noisy(layer: Any, kwargs: Any) -> bool:
    return type(layer).__name__ in NOISE and kwargs.get("training") is True


def _in_float32(model: Any) -> Any:
    """A copy of a model with float32 layers, without nested models and with dropout off."""
    image = keras.Input(model.inputs[0].shape[1:], name="image")
    output = rebuild(model, image, settings={"dtype": "float32"}, noise=False)
    copied = keras.Model(image, output, name=model.name)
    settle(copied)
    return copied


def settle(model: Any) -> None:
    """Recompute the values that layers such as Normalization derive from their weights."""
    for _, layer in walk(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def architecture_digest(model: Any) -> str:
    """SHA-256 of the classes, settings and output shapes of the layers, without layer names."""
    digest = hashlib.sha256()
    for _, layer in walk(model):
        settings = {k: v for k, v in layer.get_config().items() if k != "name"}
        shape = getattr(getattr(layer, "output", None), "shape", None)
        digest.update(f"{type(layer).__name__}{settings}{shape}".encode())
    for name, settings, constants in operations(model):
        digest.update(f"{name}{settings}{constants}".encode())
    return digest.hexdigest()


def replay(model: Any, tensor: Any, visit: Any, prefix: str = "") -> Any:
    """Run the graph of a model on a tensor and call `visit` for each layer.

    Nested models are inlined.

    Args:
        model: a functional or sequential model with one input.
        tensor: the symbolic input.
        visit: `visit(path, layer, args, kwargs) -> tensor`, called for each layer.
        prefix: the prefix of the paths.

    Returns:
        The symbolic output.

    Raises:
        BadInput: if the model is a subclassed model.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            return replay(layer, args[0], visit, f"{path}/")
        return visit(path, layer, args, kwargs)

    if not has_graph(model):
        raise BadInput(
            "Only functional and sequential models can be split. Received the subclassed model "
            f"{type(model).__name__}."
        )
    return run_graph(model, tensor, call)


def rebuild(
    model: Any,
    tensor: Any,
    after: Callable[[str, Any], Any] = lambda path, hidden: hidden,
    *,
    settings: dict[str, Any] | None = None,
    noise: bool = True,
) -> Any:
    """The output of a copy of a model on a tensor, with nested models inlined.

    Args:
        model: a functional or sequential model with one input.
        tensor: the symbolic input.
        after: `after(path, hidden) -> hidden`, called with the output of each layer; its result
            replaces that output.
        settings: settings of the copied layers that differ from the original.
        noise: whether dropout that is called with `training=True` stays on.

    Returns:
        The symbolic output.
    """
    copies: dict[int, Any] = {}

    def visit(path: str, layer: Any, args: Any, kwargs: Any) -> Any:
        if id(layer) not in copies:
            copies[id(layer)] = twin(layer, path.replace("/", "."), **(settings or {}))
        if not noise and _is_noisy(layer, kwargs):
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
        result = copies[id(layer)](*args, **kwargs)
        give_weights(copies[id(layer)], weights_of(layer))
        return after(path, result)

    return replay(model, tensor, visit)


def inlined(model: Any) -> Any:
    """A functional copy without nested models; `backbone/conv_3` becomes `backbone.conv_3`."""
    tensor = keras.Input(model.inputs[0].shape[1:], name="image")
    flat_model = keras.Model(tensor, rebuild(model, tensor), name=model.name)
    settle(flat_model)
    return flat_model


def twin(layer: Any, name: str, **changes: Any) -> Any:
    """A new layer with the same settings and another name; the caller sets its weights.

    Args:
        layer: a layer, or an operation of `keras.ops` in the graph of a model.
        name: the name of the new layer.
        **changes: settings of a layer that differ.
    """
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).from_config({**layer.get_config(), "name": name})
    settings = {**layer.get_config(), **changes, "name": name}
    return type(layer).from_config(settings)


def weights_of(layer: Any) -> list[np.ndarray]:
    """The weights of a layer as arrays; empty for an operation. Half precision becomes float32."""
    weights = layer.get_weights() if isinstance(layer, keras.layers.Layer) else []
    return [w if w.dtype.kind in "iub" else np.asarray(w, np.float32) for w in weights]


def give_weights(layer: Any, weights: list[np.ndarray]) -> None:
    """Set the weights of a layer; nothing to do for an operation."""
    if weights:
        layer.set_weights(weights)


def flat(model: Any) -> Any:
    """The model itself if it has no nested models, otherwise `inlined(model)`."""
    return inlined(model) if any(hasattr(x, "layers") for x in model.layers) else model
