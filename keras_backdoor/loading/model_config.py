"""Build a Keras model from an untrusted configuration.

The deserialization code of Keras never receives the configuration: this module traverses the graph,
and `layer_config` builds its layers.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import HostileFile, UnreadableFile, UnsupportedFile, one_line
from keras_backdoor.loading import operations
from keras_backdoor.loading.constants import is_constant
from keras_backdoor.loading.layer_config import (
    Built,
    at_rest,
    built_in,
    check_kind,
    get,
    make_layer,
    plain_class,
    plain_name,
)
from keras_backdoor.loading.operations import NodeKey, Operation
from keras_backdoor.network.graph import NOISE, walk

MODELS = frozenset({"Sequential", "Functional", "Model"})
MAX_LAYERS, MAX_CALLS, MAX_NESTING = 4096, 8192, 8
MAX_SIDE, MAX_OUTPUT = 8192, 2**26
"""Largest side of an input, and largest number of values per image in an input or output.

A file that exceeds them is rejected.
"""
NORMALIZERS = {"BatchNormalization": 4, "GroupNormalization": 2, "LayerNormalization": 2,
               "Normalization": 3, "RMSNormalization": 1}  # fmt: skip
"""Number of weight arrays, each of the size of the normalized axes, that a layer allocates."""
UNKNOWN_SIDE = 64
"""Length assumed for a side without fixed length when sizes are checked."""
SPARE = 2**16
"""Number of weights that a model may have beyond those in its file.

The constants of Normalization layers are an example.
"""


class Call(NamedTuple):
    """One call of a layer or of an operation.

    Attributes:
        sources: (layer, node) of each input tensor.
        training: whether the layer is called with `training=True`.
        operation: the operation, or None for a layer.
    """

    sources: list[NodeKey]
    training: bool = False
    operation: Operation | None = None


@dataclass
class Stored:
    """Where the weights of the layers are in a file, by the id of the layer.

    Attributes:
        names: the name of the layer in the file.
        classes: its class in the file, if it differs; empty for a layer without weights that the
            file does not count.
        parts: further layers whose weights the file stores in the layer, by name.
        inside: the name below which its weights are stored, for a layer that was wrapped.
    """

    names: dict[int, str] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    inside: dict[int, str] = field(default_factory=dict)


@dataclass
class Builder:
    """Builds a model and records the names of its layers in the file.

    Attributes:
        file: name of the file for error messages.
        stored: number of weights in the file. A configuration that needs more is rejected before
            memory is allocated.
        old: whether Keras 1 or 2 wrote the file.
        places: where the weights of the layers are in the file.
        unknown: settings that this version of Keras does not support, as `layer.setting`.
        silenced: names of layers whose dropout is always on in the file and off in the model.
        layers: number of layers built so far.
        calls: number of calls in the configuration so far.
        runs: number of layer runs so far; each use of a nested model counts all of its layers.
        cost: id of a nested model -> number of layer runs of one use.
        asked: number of weights that the layers need so far.
    """

    file: str
    stored: int
    old: bool = False
    places: Stored = field(default_factory=Stored)
    unknown: list[str] = field(default_factory=list)
    silenced: list[str] = field(default_factory=list)
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
        self.places.names[id(model)] = str(inner.get("name", model.name))
        if kind == "Sequential":
            self.places.classes[id(model)] = kind
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
                known = [built[number]] if number in built else self._layers(item, depth)
                tensor = self._apply_all(known, tensor)
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
                calls[name, number] = self._call(item, node, name)
        ends = [_ends(config[key]) for key in ("input_layers", "output_layers")]
        shifts = _shifts(items, calls, ends[1])
        calls = {key: _shifted(call, shifts) for key, call in calls.items()}
        ends[1] = [_first_known(end, shifts, calls) for end in ends[1]]
        self._run(calls, items, tensors, depth)
        try:
            found = [[tensors[e] for e in part] for part in ends]
        except KeyError as error:
            raise UnreadableFile(
                f"{self.file}: an input or output of the model is not one of its layers."
            ) from error
        inputs, outputs = (e if len(e) > 1 else e[0] for e in found)
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
        if call.operation is not None:
            operands = [tensors[o] if isinstance(o, tuple) else o for o in call.operation.operands]
            self._count_layer()
            context = f"{self.file}: the operation {name!r}"
            unique = plain_name(name) if key[1] == 0 else f"{plain_name(name)}.{key[1]}"
            return operations.build(call.operation, operands, unique, self._apply_made, context)
        if name not in built:
            built[name] = self._layers(items[name], depth)
        if call.training:
            self._silence(name, built[name][0])
        given = [tensors[s] for s in call.sources]
        if not given:
            raise UnreadableFile(f"{self.file}: the layer {name!r} has no input.")
        return self._apply_all(built[name], given if len(given) > 1 else given[0])

    def _silence(self, name: str, layer: Any) -> None:
        """Note that a layer is called with `training=True`; refuse it if that cannot be undone."""
        inside = [x for _, x in walk(layer)] if hasattr(layer, "layers") else [layer]
        kinds = {type(x).__name__ for x in inside}
        if "BatchNormalization" in kinds:
            raise UnsupportedFile(
                f"{self.file}: the layer {name!r} is called with training=True, so that its "
                "answers depend on the other images of a batch: not supported yet."
            )
        if kinds & NOISE:
            self.silenced.append(name)

    def _call(self, item: dict, node: Any, name: str) -> Call:
        """Read one call of a layer or of an operation."""
        kind, context = item.get("class_name"), f"{self.file}: the operation {name!r}"
        built_in(item, context)
        if kind in operations.OLD_OPERATIONS:
            operation = operations.of_keras_2(item, node, context)
            return Call(operation.sources, operation=operation)
        if isinstance(node, dict) and operations.is_operation(item, _positional(node)):
            operation = operations.of_keras_3(item, node, context)
            return Call(operation.sources, operation=operation)
        if kind not in MODELS:
            check_kind(plain_class(kind), f"{self.file}: the layer {name!r}")
        if isinstance(node, dict):
            return _call_3(node, self.file)
        return _call_2(node, self.file)

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

    def _count_layer(self) -> None:
        self.layers += 1
        if self.layers > MAX_LAYERS:
            raise HostileFile(f"{self.file} has more than {MAX_LAYERS} layers.")

    def _layers(self, item: Any, depth: int) -> list[Any]:
        """The layers that an entry of the configuration becomes; the first has the weights."""
        self._count_layer()
        if get(item, "class_name", self.file) in MODELS:
            return [self.model(item, depth + 1)]
        if item["class_name"] in operations.OLD_OPERATIONS:
            raise UnreadableFile(f"{self.file} has an operation in a sequential model.")
        made = make_layer(item, self.file, old=self.old)
        self._remember(made)
        self.unknown += [f"{made.name}.{key}" for key in made.unknown]
        return made.layers

    def _remember(self, made: Built) -> None:
        first, *others = made.layers
        self.places.names[id(first)] = made.name
        self.places.parts[id(first)] = made.parts
        if made.stored_class is not None:
            self.places.classes[id(first)] = made.stored_class
        if made.inside:
            self.places.inside[id(first)] = made.inside
        for layer in others:
            self.places.classes[id(layer)] = ""

    def _apply_all(self, layers: list[Any], tensors: Any) -> Any:
        for layer in layers:
            tensors = self._apply(layer, tensors)
        return tensors

    def _apply_made(self, layer: Any, tensors: Any) -> Any:
        """Call a layer that replaces an operation; the file does not count it."""
        self.places.classes[id(layer)] = ""
        return self._apply(layer, tensors)

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
        several = type(layer).__name__ == "MultiHeadAttention" or isinstance(tensors, tuple)
        if type(layer).__name__ == "MultiHeadAttention":
            tensors = _attention(layer, tensors, self.file)
        try:
            with at_rest(layer):
                result = layer(*tensors) if several else layer(tensors)
        except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
            raise UnreadableFile(
                f"{self.file}: the layer {layer.name!r} does not fit its input: {one_line(error)}"
            ) from error
        if isinstance(result, list | tuple | dict):
            raise UnsupportedFile(
                f"{self.file}: the layer {layer.name!r} has several outputs: not supported yet."
            )
        size = np.prod([n or UNKNOWN_SIDE for n in result.shape[1:]], dtype=np.float64)
        if size > MAX_OUTPUT:
            raise HostileFile(
                f"{self.file}: the output of {layer.name!r} has more than {MAX_OUTPUT:,} values."
            )
        return result


def _attention(layer: Any, tensors: Any, file: str) -> list[Any]:
    """The query, the value and the key of an attention layer of limited size."""
    given = tensors if isinstance(tensors, list) else [tensors]
    if not 2 <= len(given) <= 3 or any(len(t.shape) != 3 for t in given):
        raise UnsupportedFile(
            f"{file}: the attention {layer.name!r} is supported for two or three sequences only."
        )
    steps = [t.shape[1] or UNKNOWN_SIDE for t in given]
    if steps[0] * max(steps) * layer.num_heads > MAX_OUTPUT:
        raise HostileFile(
            f"{file}: the attention {layer.name!r} compares more than {MAX_OUTPUT:,} pairs."
        )
    return given


def _positional(node: Any) -> int:
    args = node.get("args")
    return len(args) if isinstance(args, list) else 0


IGNORED_ARGUMENTS = frozenset({"mask", "attention_mask", "return_attention_scores", "training",
                               "use_causal_mask"})  # fmt: skip
"""Arguments of calls that have no effect if they are None or False."""


def _call_3(node: dict, file: str) -> Call:
    """Read a call as Keras 3 writes it."""
    args, kwargs = node.get("args") or [], dict(node.get("kwargs") or {})
    training = kwargs.get("training") is True
    sources: list[NodeKey] = []
    _collect_sources(args, sources, file)
    for key in ("inputs", "query", "value", "key"):
        if kwargs.get(key) is not None:
            _collect_sources([kwargs.pop(key)], sources, file)
    _check_arguments(kwargs, file)
    return Call(sources, training)


def _check_arguments(kwargs: dict, file: str) -> None:
    extra = {k: v for k, v in kwargs.items() if v not in (None, False) and k != "training"}
    if not extra:
        return
    shown = str(sorted(map(str, extra)))[:60]
    if all(k in IGNORED_ARGUMENTS and _is_harmless(v) for k, v in extra.items()):
        raise UnsupportedFile(f"{file}: a layer is called with {shown}: not supported yet.")
    raise HostileFile(f"{file}: a layer is called with {shown}.")


def _is_harmless(value: Any) -> bool:
    tensor = isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
    return tensor or isinstance(value, bool | int | float) or is_constant(value)


def _collect_sources(args: Any, sources: list[NodeKey], file: str) -> None:
    for argument in args or []:
        if isinstance(argument, list):
            _collect_sources(argument, sources, file)
        elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
            sources.append(operations.keras_tensor(argument, file))
        elif is_constant(argument):
            raise UnsupportedFile(f"{file}: a layer is called with a constant: not supported yet.")
        else:
            raise HostileFile(f"{file}: a layer is called with something that is not a tensor.")


def _call_2(node: Any, file: str) -> Call:
    """Read a call as Keras 1 and 2 write it: `[[layer, node, tensor, {…}], …]`."""
    if node and isinstance(node[0], str):
        node = [node]
    sources: list[NodeKey] = []
    training = False
    for entry in node:
        if str(entry[0]) == "_CONSTANT_VALUE":
            raise UnsupportedFile(f"{file}: a layer is called with a constant: not supported yet.")
        sources.append((str(entry[0]), int(entry[1])))
        kwargs = dict(entry[3]) if len(entry) > 3 and isinstance(entry[3], dict) else {}
        training |= kwargs.get("training") is True
        for key in ("value", "key"):
            tensor = kwargs.pop(key, None)
            if isinstance(tensor, list) and tensor and isinstance(tensor[0], str):
                sources.append((tensor[0], int(tensor[1])))
        _check_arguments(kwargs, file)
    return Call(sources, training)


def _shifts(
    items: dict[str, Any], calls: dict[NodeKey, Call], outputs: list[NodeKey]
) -> dict[str, int]:
    """How much larger the numbers of the uses of each nested model are than those of its calls.

    In files of Keras 2, the first use of a nested model has the number 1, because the model itself
    counts as a use.
    """
    used: dict[str, set[int]] = {}
    for source, node in [s for call in calls.values() for s in call.sources] + outputs:
        used.setdefault(source, set()).add(node)
    shifts = {}
    for name, nodes in used.items():
        number = len(items.get(name, {}).get("inbound_nodes") or [])
        nested = items.get(name, {}).get("class_name") in MODELS
        shifts[name] = int(nested and number in nodes and 0 not in nodes)
    return shifts


def _shifted(call: Call, shifts: dict[str, int]) -> Call:
    def moved(key: Any) -> Any:
        return (key[0], key[1] - shifts.get(key[0], 0)) if isinstance(key, tuple) else key

    operation = call.operation
    if operation is not None:
        operands = [moved(o) for o in operation.operands]
        operation = Operation(operation.kind, operands, operation.options)
    return Call([moved(s) for s in call.sources], call.training, operation)


def _first_known(end: NodeKey, shifts: dict[str, int], calls: dict[NodeKey, Call]) -> NodeKey:
    """The call that an output of the model names.

    Keras 3 numbers the uses of nested models from 0 in calls and from 1 in outputs.
    """
    name, node = end
    moved = (name, node - shifts.get(name, 0))
    return moved if moved in calls or (name, node - 1) not in calls else (name, node - 1)


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
    if type(layer).__name__ == "MultiHeadAttention" and not layer.built:
        widths = [t.shape[-1] or UNKNOWN_SIDE for t in tensors] if isinstance(tensors, list) else []
        return sum(int(w) * layer.num_heads * layer.key_dim for w in widths)
    if isinstance(tensors, list) or getattr(layer, "built", True):
        return 0
    first = tensors[0] if isinstance(tensors, tuple) else tensors
    shape = [n or UNKNOWN_SIDE for n in first.shape[1:]]
    width, kind = shape[-1], type(layer).__name__
    window = int(np.prod(getattr(layer, "kernel_size", 1), dtype=np.float64))
    multiplier = int(getattr(layer, "depth_multiplier", 1) or 1)
    if kind == "Dense":
        return int(width * layer.units)
    if kind == "SeparableConv2D":
        return int(width * multiplier * (window + layer.filters))
    if kind == "DepthwiseConv2D":
        return int(width * multiplier * window)
    if kind in ("Conv1D", "Conv2D", "Conv2DTranspose"):
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
