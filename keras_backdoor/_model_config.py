"""A Keras model from a configuration that nobody vouches for.

Nothing of the configuration reaches Keras' own deserialisation: the graph is walked here, and
its layers are made by `_layer_config`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_backdoor._backend import keras
from keras_backdoor._layer_config import get, line, make_layer, plain_name
from keras_backdoor.errors import HostileFile, UnreadableFile

MODELS = frozenset({"Sequential", "Functional", "Model"})
MAX_LAYERS, MAX_NESTING, MAX_PARAMETERS = 4096, 8, 2**30


@dataclass
class Builder:
    """Builds a model and remembers what every layer was called in the file."""

    file: str
    original: dict[int, str] = field(default_factory=dict)
    layers: int = 0

    def model(self, config: Any, depth: int = 0) -> keras.Model:
        """The model of `{"class_name": …, "config": …}`."""
        if depth > MAX_NESTING:
            raise HostileFile(f"{self.file}: models are nested deeper than {MAX_NESTING}.")
        kind, inner = get(config, "class_name", self.file), get(config, "config", self.file)
        if kind not in MODELS:
            raise HostileFile(f"{self.file}: a model of class {kind!r} is not built-in.")
        if isinstance(inner, list):
            inner = {"layers": inner}
        layers = get(inner, "layers", self.file)
        if not isinstance(layers, list) or not layers:
            raise UnreadableFile(f"{self.file} describes a model without layers.")
        build = self._sequential if kind == "Sequential" else self._functional
        model: keras.Model = build(inner, layers, depth)
        self.original[id(model)] = str(inner.get("name", model.name))
        if kind == "Sequential":
            model._stored_class = kind
        if inner.get("trainable") is False:
            model.trainable = False
        return model

    def _sequential(self, config: dict, layers: list, depth: int) -> keras.Model:
        first = get(layers[0], "config", self.file)
        shape = _batch_shape(first) or config.get("build_input_shape")
        if shape is None and get(layers[0], "class_name", self.file) in MODELS:
            made = self.model(layers[0], depth + 1)
            shape = made.input_shape
            rest = layers[1:]
            tensor = image = self._input(shape, "input")
            tensor = made(tensor)
        else:
            named = str(first.get("name")) if layers[0]["class_name"] == "InputLayer" else "input"
            tensor = image = self._input(shape, named)
            rest = layers[1:] if layers[0]["class_name"] == "InputLayer" else layers
        for item in rest:
            tensor = self._call(self._layer(item, depth), tensor)
        return keras.Model(image, tensor, name=plain_name(config.get("name", "sequential")))

    def _functional(self, config: dict, layers: list, depth: int) -> keras.Model:
        made: dict[str, Any] = {}
        tensors: dict[tuple[str, int], Any] = {}
        waiting: list[tuple[str, int, list]] = []
        for item in layers:
            name = str(item.get("name") or get(item, "config", self.file).get("name"))
            if name in made:
                raise UnreadableFile(f"{self.file} has two layers called {name!r}.")
            if get(item, "class_name", self.file) == "InputLayer":
                tensors[name, 0] = self._input(_batch_shape(item["config"]), name)
                made[name] = None
                continue
            made[name] = self._layer(item, depth)
            for number, node in enumerate(item.get("inbound_nodes") or []):
                waiting.append((name, number, _sources(node, self.file)))
        while waiting:
            ready = [w for w in waiting if all(s in tensors for s in w[2])]
            if not ready:
                raise UnreadableFile(f"{self.file}: the layer {waiting[0][0]!r} has no input.")
            for name, number, sources in ready:
                given = [tensors[s] for s in sources]
                tensors[name, number] = self._call(
                    made[name], given if len(given) > 1 else given[0]
                )
            waiting = [w for w in waiting if w not in ready]
        try:
            ends = [
                [tensors[e] for e in _ends(config[key])]
                for key in ("input_layers", "output_layers")
            ]
        except KeyError as error:
            raise UnreadableFile(f"{self.file}: the model's ends are not its layers.") from error
        inputs, outputs = (e if len(e) > 1 else e[0] for e in ends)
        return keras.Model(inputs, outputs, name=plain_name(config.get("name", "model")))

    def _input(self, shape: Any, name: str) -> Any:
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            raise UnreadableFile(f"{self.file} does not say the shape of its input.")
        sizes = [n for n in shape[1:] if n is not None]
        if any(not isinstance(n, int) or not 1 <= n <= 8192 for n in sizes):
            raise HostileFile(f"{self.file}: an input of shape {list(shape)} is absurd.")
        return keras.Input(tuple(shape[1:]), name=plain_name(name))

    def _layer(self, item: Any, depth: int) -> Any:
        self.layers += 1
        if self.layers > MAX_LAYERS:
            raise HostileFile(f"{self.file} has more than {MAX_LAYERS} layers.")
        if get(item, "class_name", self.file) in MODELS:
            return self.model(item, depth + 1)
        layer, name = make_layer(item, self.file)
        self.original[id(layer)] = name
        return layer

    def _call(self, layer: Any, tensors: Any) -> Any:
        size = _parameters(layer, tensors)
        if size > MAX_PARAMETERS:
            raise HostileFile(f"{self.file}: the layer {layer.name!r} asks for {size:,} weights.")
        try:
            result = layer(tensors)
        except (ValueError, TypeError) as error:
            raise UnreadableFile(
                f"{self.file}: the layer {layer.name!r} does not fit its input: {line(error)}"
            ) from error
        if any(n is not None and n > 2**28 for n in result.shape):
            raise HostileFile(f"{self.file}: the output of {layer.name!r} is absurdly large.")
        return result


def _sources(node: Any, file: str) -> list[tuple[str, int]]:
    if isinstance(node, dict):
        found: list[tuple[str, int]] = []
        _tensors(node.get("args"), found, file)
        extra = {k: v for k, v in (node.get("kwargs") or {}).items() if v not in (None, False)}
        if extra:
            raise HostileFile(f"{file}: a layer is called with {str(sorted(extra))[:60]}.")
        return found
    if node and isinstance(node[0], str):
        node = [node]
    return [(str(entry[0]), int(entry[1])) for entry in node]


def _tensors(args: Any, found: list[tuple[str, int]], file: str) -> None:
    for argument in args or []:
        if isinstance(argument, list):
            _tensors(argument, found, file)
        elif isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__":
            history = argument["config"]["keras_history"]
            found.append((str(history[0]), int(history[1])))
        else:
            raise HostileFile(f"{file}: a layer is called with something that is not a tensor.")


def _ends(entries: Any) -> list[tuple[str, int]]:
    if isinstance(entries, dict):
        entries = list(entries.values())
    if entries and isinstance(entries[0], str):
        entries = [entries]
    return [(str(e[0]), int(e[1])) for e in entries]


def _batch_shape(config: Any) -> Any:
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    return shape["items"] if isinstance(shape, dict) and "items" in shape else shape


def _parameters(layer: Any, tensors: Any) -> int:
    """Weights that calling a layer will allocate, or 0 for layers whose weights are few."""
    if isinstance(tensors, list) or getattr(layer, "built", False):
        return 0
    width = tensors.shape[-1] or 1
    kernel = int(np.prod(getattr(layer, "kernel_size", 1), dtype=np.float64))
    out = getattr(layer, "units", None) or getattr(layer, "filters", None)
    out = out or getattr(layer, "depth_multiplier", 1) or 1
    if type(layer).__name__ == "PReLU":
        return int(np.prod([n or 1 for n in tensors.shape[1:]], dtype=np.float64))
    return int(width) * kernel * int(out)
