"""A Keras model from a configuration that nobody vouches for.

Nothing of the configuration reaches Keras' own deserialisation: the graph is walked here, and
its layers are made by `_layer_config`.
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
"""Numbers of an input's side, and of one image's activations, above which a file is refused."""
TRAINED = frozenset(
    {"AlphaDropout", "BatchNormalization", "Dropout", "Functional", "GaussianDropout",
     "GaussianNoise", "Sequential", "SpatialDropout2D", "StochasticDepth"}
)  # fmt: skip
"""Layers that do something else in training (Random* are called with it by default)."""
NORMALIZERS = {"BatchNormalization": 4, "GroupNormalization": 2, "LayerNormalization": 2,
               "Normalization": 3}  # fmt: skip
"""Arrays of the size of the normalised axes that a layer allocates."""
UNKNOWN_SIDE = 64
"""What a side of any length is taken to be where sizes are bounded."""
SPARE = 2**16
"""Weights that a model may have beyond those in its file (Normalization's constants)."""
NodeKey = tuple[str, int]


class Call(NamedTuple):
    """One use of a layer: (layer, node) of its inputs, and the number of `x + 3`."""

    sources: list[NodeKey]
    constant: float | None
    is_operation: bool
    tensor_first: bool
    training: bool


@dataclass
class Builder:
    """Builds a model and remembers what every layer was called in the file.

    Attributes:
        file: what the file is called in messages.
        stored: numbers that the file holds as weights; a configuration that asks for more is
            refused before memory is taken.
        original: id of a layer -> its name in the file.
        runs: layers that were run, those of nested models at every use of the model.
        cost: id of a nested model -> layers that one use of it runs.
        unknown: settings that this version of Keras does not know, as `layer.setting`.
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
        """The model of `{"class_name": …, "config": …}`."""
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
            model._trainable = False  # the flags of its layers are their own
        return model

    def _sequential(self, config: dict, layers: list, depth: int) -> keras.Model:
        first = get(layers[0], "config", self.file)
        shape = _batch_shape(first) or config.get("build_input_shape")
        has_input = layers[0]["class_name"] == "InputLayer"
        made: dict[int, Any] = {}
        if shape is None and layers[0]["class_name"] in MODELS:
            made[0] = self.model(layers[0], depth + 1)
            shape = made[0].input_shape
        tensor = image = self._input(shape, str(first.get("name")) if has_input else "input")
        for number, item in enumerate(layers):
            if number or not has_input:
                tensor = self._apply(made.get(number) or self._layer(item, depth), tensor)
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
            raise UnreadableFile(f"{self.file}: the model's ends are not its layers.") from error
        inputs, outputs = (e if len(e) > 1 else e[0] for e in ends)
        return keras.Model(inputs, outputs, name=plain_name(config.get("name", "model")))

    def _run(self, calls: dict[NodeKey, Call], items: dict, tensors: dict, depth: int) -> None:
        """Make every call as soon as its inputs are there."""
        self.calls += len(calls)
        if self.calls > MAX_CALLS:
            raise HostileFile(f"{self.file} uses its layers more than {MAX_CALLS} times.")
        missing = {key: len(set(call.sources)) for key, call in calls.items()}
        users: dict[NodeKey, list[NodeKey]] = {}
        for key, call in calls.items():
            for source in set(call.sources):
                users.setdefault(source, []).append(key)
        made: dict[str, Any] = {}
        ready = deque(tensors)
        ready.extend(key for key, number in missing.items() if number == 0)
        while ready:
            key = ready.popleft()
            if key in calls:
                tensors[key] = self._make(key, calls[key], items, tensors, made, depth)
            for user in users.get(key, []):
                missing[user] -= 1
                if missing[user] == 0:
                    ready.append(user)
        lost = [key[0] for key in calls if key not in tensors]
        if lost:
            raise UnreadableFile(f"{self.file}: the layer {lost[0]!r} has no input.")

    def _make(
        self, key: NodeKey, call: Call, items: dict, tensors: dict, made: dict, depth: int
    ) -> Any:
        name = key[0]
        if name not in made:
            if call.is_operation and not call.tensor_first:
                kind = items[name].get("class_name")
                if kind not in ("Add", "Multiply"):
                    raise UnreadableFile(f"{self.file}: {name!r} is not supported yet.")
            if call.is_operation:
                made[name] = make_operation(items[name], call.constant, self.file)
            else:
                made[name] = self._layer(items[name], depth)
        if call.training and type(made[name]).__name__ in TRAINED:
            raise UnreadableFile(
                f"{self.file}: the layer {name!r} is always in training, which is not supported."
            )
        given = [tensors[s] for s in call.sources]
        if not given:
            raise UnreadableFile(f"{self.file}: the layer {name!r} has no input.")
        return self._apply(made[name], given if len(given) > 1 else given[0])

    def _input(self, shape: Any, name: str) -> Any:
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            raise UnreadableFile(f"{self.file} does not say the shape of its input.")
        sizes = [n for n in shape[1:] if n is not None]
        if any(not isinstance(n, int) or not 1 <= n <= MAX_SIDE for n in sizes):
            raise HostileFile(f"{self.file}: an input of shape {str(list(shape))[:80]} is absurd.")
        if np.prod(sizes, dtype=np.float64) > MAX_OUTPUT:
            raise HostileFile(f"{self.file}: an input of shape {list(shape)} is absurd.")
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
            raise HostileFile(f"{self.file}: the output of {layer.name!r} is absurdly large.")
        return result


def _call(node: Any, file: str) -> Call:
    if isinstance(node, dict):
        args = node.get("args") or []
        extra = {k: v for k, v in (node.get("kwargs") or {}).items() if v not in (None, False)}
        training = extra.pop("training", None) is True
        if extra:
            raise HostileFile(f"{file}: a layer is called with {str(sorted(extra))[:60]}.")
        numbers = [a for a in args if isinstance(a, int | float) and not isinstance(a, bool)]
        found: list[NodeKey] = []
        _tensors([a for a in args if not isinstance(a, int | float)], found, file)
        is_operation = len(args) > 1
        first = not numbers or not isinstance(args[0], int | float)
        if len(numbers) > 1 or (numbers and not (is_operation and np.isfinite(numbers[0]))):
            raise HostileFile(f"{file}: a layer is called with something that is not a tensor.")
        return Call(found, float(numbers[0]) if numbers else None, is_operation, first, training)
    if node and isinstance(node[0], str):
        node = [node]
    return Call([(str(entry[0]), int(entry[1])) for entry in node], None, False, True, False)


def _tensors(args: Any, found: list[NodeKey], file: str) -> None:
    for argument in args or []:
        if isinstance(argument, list):
            _tensors(argument, found, file)
        elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
            history = argument["config"]["keras_history"]
            found.append((str(history[0]), int(history[1])))
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
    """Weights that calling a layer for the first time will allocate, at least."""
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
