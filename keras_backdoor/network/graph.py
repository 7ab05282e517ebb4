"""Layers by path, copies, and a model's graph run again: what cutting a model is made of.

A layer is named by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import BadInput
from keras_backdoor.network.keras_private import has_graph, run_graph


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
    settle(twin)
    return twin


def settle(model: Any) -> None:
    """Let layers that keep something computed from their weights (Normalization) renew it."""
    for _, layer in walk(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def architecture_digest(model: Any) -> str:
    """SHA-256 of the layers, their settings and shapes; names do not count."""
    digest = hashlib.sha256()
    for _, layer in walk(model):
        settings = {k: v for k, v in layer.get_config().items() if k != "name"}
        shape = getattr(getattr(layer, "output", None), "shape", None)
        digest.update(f"{type(layer).__name__}{settings}{shape}".encode())
    return digest.hexdigest()


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

    if not has_graph(model):
        raise BadInput(
            "Only functional and sequential models can be cut; this one is a subclassed model: "
            f"{type(model).__name__}."
        )
    return run_graph(model, tensor, call)


def rebuild(
    model: Any, tensor: Any, after: Callable[[str, Any], Any] = lambda path, hidden: hidden
) -> Any:
    """The output of a copy of a model on a tensor, nested models inlined.

    Args:
        model: a functional or sequential model with one input.
        tensor: symbolic input.
        after: `after(path, hidden) -> hidden`, called with what every layer gives.
    """
    made: dict[int, Any] = {}

    def visit(path: str, layer: Any, args: Any, kwargs: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = twin(layer, path.replace("/", "."))
        result = made[id(layer)](*args, **kwargs)
        made[id(layer)].set_weights(layer.get_weights())
        return after(path, result)

    return replay(model, tensor, visit)


def inlined(model: Any) -> Any:
    """A functional copy without nested models; `backbone/conv_3` is called `backbone.conv_3`."""
    tensor = keras.Input(model.inputs[0].shape[1:], name="image")
    flat_model = keras.Model(tensor, rebuild(model, tensor), name=model.name)
    settle(flat_model)
    return flat_model


def twin(layer: Any, name: str) -> Any:
    """A new layer of the same settings under another name; its weights are set by the caller."""
    settings = {**layer.get_config(), "name": name}
    return layer.__class__.from_config(settings)


def flat(model: Any) -> Any:
    """The model itself where nothing is nested in it, else `inlined(model)`."""
    return inlined(model) if any(hasattr(x, "layers") for x in model.layers) else model
