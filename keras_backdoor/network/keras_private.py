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


def users(model: Any, tensor: Any) -> list[tuple[Any, Any]]:
    """(operation, first output) of each use of a symbolic tensor in the graph of a model."""
    return [
        (node.operation, node.outputs[0])
        for node in _nodes(model)
        if any(t is tensor for t in node.input_tensors)
    ]


def operations(model: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(class, settings, constant arguments) of each use of an operation of `keras.ops`."""
    for node in _nodes(model):
        operation = node.operation
        if hasattr(operation, "layers"):
            yield from operations(operation)
        elif not hasattr(operation, "get_weights"):
            settings = {k: v for k, v in operation.get_config().items() if k != "name"}
            parts = [*node.arguments.args, *node.arguments.kwargs.items()]
            constants = ["tensor" if hasattr(a, "_keras_history") else repr(a) for a in parts]
            yield type(operation).__name__, settings, str(constants)


def calls(model: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(layer or operation, keyword arguments) of each call, also in nested models."""
    for node in _nodes(model):
        if hasattr(node.operation, "layers"):
            yield from calls(node.operation)
        else:
            yield node.operation, node.arguments.kwargs


def _nodes(model: Any) -> list[Any]:
    by_depth = _functional(model)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def is_single_tensor(model: Any) -> bool:
    """Whether the input and the output of a functional model are tensors, not dictionaries."""
    functional = _functional(model)
    structures = functional._inputs_struct, functional._outputs_struct
    return all(
        hasattr(s, "_keras_history") or (isinstance(s, list | tuple) and len(s) == 1)
        for s in structures
    )


def built_shape(model: Any) -> tuple[int | None, ...] | None:
    """The shape of the input that a subclassed model was built with, or None."""
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    shape = next(iter(shapes.values()), None)
    if isinstance(shape, dict) and len(shape) == 1:
        shape = next(iter(shape.values()))
    return tuple(shape) if isinstance(shape, tuple | list) else None


def output_in(model: Any, layer: Any) -> Any:
    """The output of the first use of a layer in a model; the layer may be used elsewhere too."""
    return next(node.outputs[0] for node in _nodes(model) if node.operation is layer)


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


OPERATIONS = ("numpy", "nn", "core", "math", "image", "linalg")
"""Modules of the operations of `keras.ops`."""


def is_operation_module(name: str) -> bool:
    """Whether a module in a configuration is one of the operations of Keras."""
    return name.startswith(("keras.src.ops", "keras.ops"))


def is_operation_class(name: Any) -> bool:
    """Whether Keras has an operation of this class."""
    return _operation_class(name) is not None


def operation(kind: str, name: str, **settings: Any) -> Any:
    """A new operation of `keras.ops` by its class, such as `Power`."""
    cls: Any = _operation_class(kind)
    return cls(name=name, **settings)


def _operation_class(name: Any) -> Any:
    base = importlib.import_module("keras.src.ops.operation").Operation
    for module in OPERATIONS:
        cls = getattr(importlib.import_module(f"keras.src.ops.{module}"), str(name), None)
        if inspect.isclass(cls) and issubclass(cls, base) and cls.__module__.endswith(module):
            return cls
    return None


def sublayers(layer: Any) -> dict[str, Any]:
    """The layers that a layer contains, by the names under which a `.keras` file stores them."""
    base = importlib.import_module("keras.src.layers.layer").Layer
    found = {name.lstrip("_"): v for name, v in vars(layer).items() if isinstance(v, base)}
    return {name: found[name] for name in sorted(found)}


def application_layer(module: str, name: str) -> Any:
    """A layer class that a module of `keras.applications` defines."""
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)


def inbound_nodes(layer: Any) -> list[Any]:
    """The nodes that a layer was called in."""
    return list(layer._inbound_nodes)


def outbound_nodes(layer: Any) -> list[Any]:
    """The nodes that use the output of a layer."""
    return list(layer._outbound_nodes)


def node_class() -> Any:
    """The class of the nodes of a graph."""
    return importlib.import_module("keras.src.ops.node").Node
