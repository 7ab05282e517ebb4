"""All uses of the private interface of Keras 3."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any


def producer(tensor: Any) -> tuple[Any, list[Any]] | None:
    """(operation, input tensors) that produce a symbolic tensor, or None if unknown."""
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    operation, node, _ = history
    return operation, list(operation._inbound_nodes[node].input_tensors)


def consumers(layer: Any) -> list[Any]:
    """The operations that use the output of a layer, in any model."""
    return [node.operation for node in layer._outbound_nodes]


def has_graph(model: Any) -> bool:
    """Whether a model has a graph: functional and sequential models do, subclassed ones do not."""
    return hasattr(_functional(model), "_run_through_graph")


def run_graph(model: Any, tensor: Any, call: Callable[..., Any]) -> Any:
    """Run the graph of a functional or sequential model on a symbolic tensor.

    Args:
        model: a functional or sequential model with one input.
        tensor: the symbolic input.
        call: `call(layer, *args, **kwargs)` returns the output of a layer.

    Returns:
        The symbolic output.
    """

    def wrapped(operation: Any) -> Any:
        return lambda *args, **kwargs: call(operation, *args, **kwargs)

    return _functional(model)._run_through_graph([tensor], operation_fn=wrapped)


def _functional(model: Any) -> Any:
    return getattr(model, "_functional", None) or model


def seed_states(model: Any) -> Iterator[Any]:
    """The states of the random number generators of a model's layers."""
    for layer in model.layers:
        for generator in getattr(layer, "_seed_generators", []):
            yield generator.state


def stored_variables(layer: Any) -> list[Any]:
    """The variables of a layer in the order of a `.keras` file."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_built_in(cls: Any) -> bool:
    """Whether a class comes from Keras itself."""
    return inspect.isclass(cls) and cls.__module__.startswith("keras.src.")


def application_layer(module: str, name: str) -> Any:
    """A layer class that a module of `keras.applications` defines."""
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)
