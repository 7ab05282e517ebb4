"""Look up layers by path, copy models and rebuild their graphs.

A layer is identified by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import BadInput
from keras_backdoor.network.keras_private import has_graph, run_graph


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
    model: Any, tensor: Any, after: Callable[[str, Any], Any] = lambda path, hidden: hidden
) -> Any:
    """The output of a copy of a model on a tensor, with nested models inlined.

    Args:
        model: a functional or sequential model with one input.
        tensor: the symbolic input.
        after: `after(path, hidden) -> hidden`, called with the output of each layer; its result
            replaces that output.

    Returns:
        The symbolic output.
    """
    copies: dict[int, Any] = {}

    def visit(path: str, layer: Any, args: Any, kwargs: Any) -> Any:
        if id(layer) not in copies:
            copies[id(layer)] = twin(layer, path.replace("/", "."))
        result = copies[id(layer)](*args, **kwargs)
        copies[id(layer)].set_weights(layer.get_weights())
        return after(path, result)

    return replay(model, tensor, visit)


def inlined(model: Any) -> Any:
    """A functional copy without nested models; `backbone/conv_3` becomes `backbone.conv_3`."""
    tensor = keras.Input(model.inputs[0].shape[1:], name="image")
    flat_model = keras.Model(tensor, rebuild(model, tensor), name=model.name)
    settle(flat_model)
    return flat_model


def twin(layer: Any, name: str) -> Any:
    """A new layer with the same settings and another name; the caller sets its weights."""
    settings = {**layer.get_config(), "name": name}
    return layer.__class__.from_config(settings)


def flat(model: Any) -> Any:
    """The model itself if it has no nested models, otherwise `inlined(model)`."""
    return inlined(model) if any(hasattr(x, "layers") for x in model.layers) else model
