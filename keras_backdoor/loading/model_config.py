"""Build a Keras model from an untrusted configuration.

The deserialization code of Keras never receives the configuration: this module traverses the graph,
and `layer_config` builds its layers.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import HostileFile, UnreadableFile, one_line
from keras_backdoor.loading.layer_config import (
    at_rest,
    get,
    make_layer,
    make_operation,
    plain_name,
)

MODELS = frozenset({"Sequential", "Functional", "Model"})
MAX_LAYERS, MAX_CALLS, MAX_NESTING = 4096, 8192, 8
MAX_SIDE, MAX_OUTPUT = 8192, 2**26
"""Largest side of an input, and largest number of values per image in an input or output.

A file that exceeds them is rejected.
"""
TRAINED = frozenset(
    {"AlphaDropout", "BatchNormalization", "Dropout", "Functional", "GaussianDropout",
     "GaussianNoise", "Sequential", "SpatialDropout2D", "StochasticDepth"}
)  # fmt: skip
"""Layers that behave differently during training.

Random* layers are not listed: they are called with `training=True` by default.
"""
NORMALIZERS = {"BatchNormalization": 4, "GroupNormalization": 2, "LayerNormalization": 2,
               "Normalization": 3}  # fmt: skip
"""Number of weight arrays, each of the size of the normalized axes, that a layer allocates."""
UNKNOWN_SIDE = 64
"""Length assumed for a side without fixed length when sizes are checked."""
SPARE = 2**16
"""Number of weights that a model may have beyond those in its file.

The constants of Normalization layers are an example.
"""
NodeKey = tuple[str, int]


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        sources: (layer, node) of each input tensor.
        constant: the constant operand of an operation, such as 3 in `x + 3`, or None.
        is_operation: whether the call is an operation on tensors.
        tensor_first: whether the first operand is a tensor.
        training: whether the layer is called with `training=True`.
    """

    sources: list[NodeKey]
    constant: float | None
    is_operation: bool
    tensor_first: bool
    training: bool


@dataclass
class Builder:
    """Builds a model and records the names of its layers in the file.

    Attributes:
        file: name of the file for error messages.
        stored: number of weights in the file. A configuration that needs more is rejected before
            memory is allocated.
        original: id of a layer -> its name in the file.
        unknown: settings that this version of Keras does not support, as `layer.setting`.
        layers: number of layers built so far.
        calls: number of calls in the configuration so far.
        runs: number of layer runs so far; each use of a nested model counts all of its layers.
        cost: id of a nested model -> number of layer runs of one use.
        asked: number of weights that the layers need so far.
    """

    file: str
    stored: int
    original: dict[int, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    layers: int = 0
    calls: int = 0
    runs: int = 0
    cost: dict[int, int] = field(default_factory=dict)
    asked: int = 0

    def model(self, config: Any, depth: int = 0) -> keras.Model:
        """Build the model of `{"class_name": …, "config": …}`.

        Args:
            config: the configuration of the model.
            depth: number of models that this one is nested in.

        Raises:
            HostileFile: if the configuration is not allowed or exceeds a limit.
            UnreadableFile: if the configuration is invalid or not supported.
        """
        if depth > MAX_NESTING:
            raise HostileFile(f"{self.file}: models are nested deeper than {MAX_NESTING}.")
        kind, inner = get(config, "class_name", self.file), get(config, "config", self.file)
        if kind not in MODELS:
            raise HostileFile(f"{self.file}: a model of class {str(kind)[:60]!r} is not built-in.")
        if isinstance(inner, list):
            inner = {"layers": inner}
        layers = get(inner, "layers", self.file)
        if not isinstance(layers, list) or not layers:
            raise UnreadableFile(f"{self.file} describes a model without layers.")
        build = self._sequential if kind == "Sequential" else self._functional
        before = self.runs
        model: keras.Model = build(inner, layers, depth)
        self.cost[id(model)] = self.runs - before + 1
        self.original[id(model)] = str(inner.get("name", model.name))
        if kind == "Sequential":
            model._stored_class = kind
        if inner.get("trainable") is False:
            model._trainable = False  # the setter would change the flags of its layers
        return model

    def _sequential(self, config: dict, layers: list, depth: int) -> keras.Model:
        first = get(layers[0], "config", self.file)
        shape = _batch_shape(first) or config.get("build_input_shape")
        has_input = layers[0]["class_name"] == "InputLayer"
        built: dict[int, Any] = {}
        if shape is None and layers[0]["class_name"] in MODELS:
            built[0] = self.model(layers[0], depth + 1)
            shape = built[0].input_shape
        tensor = image = self._input(shape, str(first.get("name")) if has_input else "input")
        for number, item in enumerate(layers):
            if number or not has_input:
                tensor = self._apply(built.get(number) or self._layer(item, depth), tensor)
        return keras.Model(image, tensor, name=plain_name(config.get("name", "sequential")))

    def _functional(self, config: dict, layers: list, depth: int) -> keras.Model:
        items: dict[str, Any] = {}
        tensors: dict[NodeKey, Any] = {}
        calls: dict[NodeKey, Call] = {}
        for item in layers:
            name = str(item.get("name") or get(item, "config", self.file).get("name"))
            if name in items:
                raise UnreadableFile(f"{self.file} has two layers called {name!r}.")
            items[name] = item
            if get(item, "class_name", self.file) == "InputLayer":
                tensors[name, 0] = self._input(_batch_shape(item["config"]), name)
                continue
            for number, node in enumerate(item.get("inbound_nodes") or []):
                calls[name, number] = _call(node, self.file)
        self._run(calls, items, tensors, depth)
        try:
            ends = [
                [tensors[e] for e in _ends(config[key])]
                for key in ("input_layers", "output_layers")
            ]
        except KeyError as error:
            raise UnreadableFile(
                f"{self.file}: an input or output of the model is not one of its layers."
            ) from error
        inputs, outputs = (e if len(e) > 1 else e[0] for e in ends)
        return keras.Model(inputs, outputs, name=plain_name(config.get("name", "model")))

    def _run(self, calls: dict[NodeKey, Call], items: dict, tensors: dict, depth: int) -> None:
        """Run each call when all its inputs are available, and add its output to `tensors`."""
        self.calls += len(calls)
        if self.calls > MAX_CALLS:
            raise HostileFile(f"{self.file} uses its layers more than {MAX_CALLS} times.")
        missing = {key: len(set(call.sources)) for key, call in calls.items()}
        users: dict[NodeKey, list[NodeKey]] = {}
        for key, call in calls.items():
            for source in set(call.sources):
                users.setdefault(source, []).append(key)
        built: dict[str, Any] = {}
        ready = deque(tensors)
        ready.extend(key for key, number in missing.items() if number == 0)
        while ready:
            key = ready.popleft()
            if key in calls:
                tensors[key] = self._make(key, calls[key], items, tensors, built, depth)
            for user in users.get(key, []):
                missing[user] -= 1
                if missing[user] == 0:
                    ready.append(user)
        lost = [key[0] for key in calls if key not in tensors]
        if lost:
            raise UnreadableFile(f"{self.file}: the layer {lost[0]!r} has no input.")

    def _make(
        self, key: NodeKey, call: Call, items: dict, tensors: dict, built: dict, depth: int
    ) -> Any:
        name = key[0]
        if name not in built:
            if call.is_operation and not call.tensor_first:
                kind = items[name].get("class_name")
                if kind not in ("Add", "Multiply"):
                    raise UnreadableFile(f"{self.file}: {name!r} is not supported yet.")
            if call.is_operation:
                built[name] = make_operation(items[name], call.constant, self.file)
            else:
                built[name] = self._layer(items[name], depth)
        if call.training and type(built[name]).__name__ in TRAINED:
            raise UnreadableFile(
                f"{self.file}: the layer {name!r} is called with training=True, which is not "
                "supported."
            )
        given = [tensors[s] for s in call.sources]
        if not given:
            raise UnreadableFile(f"{self.file}: the layer {name!r} has no input.")
        return self._apply(built[name], given if len(given) > 1 else given[0])

    def _input(self, shape: Any, name: str) -> Any:
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            raise UnreadableFile(f"{self.file} does not contain the shape of its input.")
        sizes = [n for n in shape[1:] if n is not None]
        if any(not isinstance(n, int) or not 1 <= n <= MAX_SIDE for n in sizes):
            raise HostileFile(
                f"{self.file}: the input shape {str(list(shape))[:80]} has a side outside "
                f"1..{MAX_SIDE}."
            )
        if np.prod(sizes, dtype=np.float64) > MAX_OUTPUT:
            raise HostileFile(
                f"{self.file}: the input shape {list(shape)} has more than {MAX_OUTPUT:,} values."
            )
        return keras.Input(tuple(shape[1:]), name=plain_name(name))

    def _layer(self, item: Any, depth: int) -> Any:
        self.layers += 1
        if self.layers > MAX_LAYERS:
            raise HostileFile(f"{self.file} has more than {MAX_LAYERS} layers.")
        if get(item, "class_name", self.file) in MODELS:
            return self.model(item, depth + 1)
        layer, name, unknown = make_layer(item, self.file)
        self.original[id(layer)] = name
        self.unknown += [f"{name}.{key}" for key in unknown]
        return layer

    def _apply(self, layer: Any, tensors: Any) -> Any:
        self.asked += _weights_of(layer, tensors)
        if self.asked > self.stored + SPARE:
            raise HostileFile(
                f"{self.file}: up to the layer {layer.name!r} the architecture asks for "
                f"{self.asked:,} weights, and the file holds {self.stored:,}."
            )
        self.runs += self.cost.get(id(layer), 1)
        if self.runs > MAX_CALLS:
            raise HostileFile(f"{self.file} runs its layers more than {MAX_CALLS} times.")
        try:
            with at_rest(layer):
                result = layer(tensors)
        except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
            raise UnreadableFile(
                f"{self.file}: the layer {layer.name!r} does not fit its input: {one_line(error)}"
            ) from error
        size = np.prod([n or UNKNOWN_SIDE for n in result.shape[1:]], dtype=np.float64)
        if size > MAX_OUTPUT:
            raise HostileFile(
                f"{self.file}: the output of {layer.name!r} has more than {MAX_OUTPUT:,} values."
            )
        return result


def _call(node: Any, file: str) -> Call:
    if isinstance(node, dict):
        args = node.get("args") or []
        extra = {k: v for k, v in (node.get("kwargs") or {}).items() if v not in (None, False)}
        training = extra.pop("training", None) is True
        if extra:
            raise HostileFile(f"{file}: a layer is called with {str(sorted(extra))[:60]}.")
        numbers = [a for a in args if isinstance(a, int | float) and not isinstance(a, bool)]
        sources: list[NodeKey] = []
        _collect_sources([a for a in args if not isinstance(a, int | float)], sources, file)
        is_operation = len(args) > 1
        first = not numbers or not isinstance(args[0], int | float)
        if len(numbers) > 1 or (numbers and not (is_operation and np.isfinite(numbers[0]))):
            raise HostileFile(f"{file}: a layer is called with something that is not a tensor.")
        return Call(sources, float(numbers[0]) if numbers else None, is_operation, first, training)
    if node and isinstance(node[0], str):
        node = [node]
    return Call([(str(entry[0]), int(entry[1])) for entry in node], None, False, True, False)


def _collect_sources(args: Any, sources: list[NodeKey], file: str) -> None:
    for argument in args or []:
        if isinstance(argument, list):
            _collect_sources(argument, sources, file)
        elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
            history = argument["config"]["keras_history"]
            sources.append((str(history[0]), int(history[1])))
        else:
            raise HostileFile(f"{file}: a layer is called with something that is not a tensor.")


def _ends(entries: Any) -> list[NodeKey]:
    if isinstance(entries, dict):
        entries = list(entries.values())
    if entries and isinstance(entries[0], str):
        entries = [entries]
    return [(str(e[0]), int(e[1])) for e in entries]


def _batch_shape(config: Any) -> Any:
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    return shape["items"] if isinstance(shape, dict) and "items" in shape else shape


def _weights_of(layer: Any, tensors: Any) -> int:
    """Lower bound of the number of weights that the first call of a layer allocates."""
    if isinstance(tensors, list) or layer.built:
        return 0
    shape = [n or UNKNOWN_SIDE for n in tensors.shape[1:]]
    width, kind = shape[-1], type(layer).__name__
    window = int(np.prod(getattr(layer, "kernel_size", 1), dtype=np.float64))
    multiplier = int(getattr(layer, "depth_multiplier", 1) or 1)
    if kind == "Dense":
        return int(width * layer.units)
    if kind == "SeparableConv2D":
        return int(width * multiplier * (window + layer.filters))
    if kind == "DepthwiseConv2D":
        return int(width * multiplier * window)
    if kind in ("Conv2D", "Conv2DTranspose"):
        return int(width * window * layer.filters) // max(1, int(getattr(layer, "groups", 1)))
    if kind == "PReLU":
        shared = layer.shared_axes or []
        return int(np.prod([1 if i + 1 in shared else n for i, n in enumerate(shape)]))
    if kind == "LayerScale":
        return int(layer.projection_dim)
    if kind in NORMALIZERS:
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        sides = [[1, *shape][a] for a in axes if a is not None]
        return NORMALIZERS[kind] * int(np.prod(sides, dtype=np.float64))
    return 0
