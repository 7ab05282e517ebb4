"""Load weights from a checked HDF5 file into a model; names, shapes and values are verified."""

import re
from typing import Any

import numpy as np

from keras_backdoor._safe import h5
from keras_backdoor.errors import UnreadableFile
from keras_backdoor.loading.model_config import Stored
from keras_backdoor.network.graph import settle
from keras_backdoor.network.keras_private import stored_variables, sublayers

FOLDERS = ("layers", "_layer_checkpoint_dependencies")
"""Group of the layers in `.keras` files: since Keras 2.13, and in Keras 2.12."""


def fill_any(model: Any, file: Any, name: str, *, optional: tuple[str, ...] = ()) -> None:
    """Load the weights of a checked weights-only file into a model, in place.

    Args:
        model: a built model.
        file: the open `.h5` (with `layer_names`) or `.weights.h5` file.
        name: the name of the file in messages.
        optional: names of layers that may be missing in the file or have another shape there.

    Raises:
        UnreadableFile: if the weights do not fit the model.
    """
    if is_v3(file):
        fill_v3(model, file, name, optional=optional)
    else:
        fill(model, file.get("model_weights", file), name, optional=optional)


def is_v3(file: Any) -> bool:
    """Whether a weights-only file has the layout of `.keras` files."""
    return "layers" in file and "layer_names" not in file.attrs


def fill(
    model: Any,
    group: Any,
    name: str,
    *,
    places: Stored | None = None,
    optional: tuple[str, ...] = (),
) -> None:
    """Load weights in the `.h5` layout: `layer_names`, and `weight_names` for each layer.

    Layers are matched by name, or by order if the model and the file have no name in common.

    Args:
        model: a built model.
        group: the HDF5 group with the weights.
        name: name of the file for error messages.
        places: where the weights of the layers are in the file; by default at their names.
        optional: names of layers that may be missing in the file or have another shape there.
    """
    places = places or Stored()
    stored = {n: h5.names(group[n], "weight_names") for n in h5.names(group, "layer_names")}
    stored = {n: weights for n, weights in stored.items() if weights}
    inner = {id(p) for x in model.layers for p in places.parts.get(id(x), {}).values()}
    layers = {
        places.names.get(id(x), x.name): x for x in model.layers if x.weights and id(x) not in inner
    }
    if not set(layers) & set(stored) and len(layers) == len(stored):
        groups = dict(zip(layers, stored, strict=True))
        stored = dict(zip(layers, stored.values(), strict=True))
    else:
        groups = {n: n for n in stored}
    missing = set(layers) ^ set(stored)
    if missing - set(optional):
        raise UnreadableFile(
            f"{name}: the weights do not fit the architecture; only one of the two contains the "
            f"layers {', '.join(sorted(missing - set(optional))[:5])}."
        )
    for key in set(layers) & set(stored):
        layer = layers[key]
        both = [layer, *places.parts.get(id(layer), {}).values()]
        variables = [v for x in both for v in x.trainable_weights]
        variables += [v for x in both for v in x.non_trainable_weights]
        arrays = [group[groups[key]][n] for n in stored[key]]
        if id(layer) in places.inside:  # the vectors of a spectral normalization come last
            arrays = arrays[: len(variables)]
        _assign(variables, arrays, f"{name}: the layer {key!r}", skip=key in optional)
    settle(model)


def fill_v3(
    model: Any,
    group: Any,
    name: str,
    *,
    places: Stored | None = None,
    optional: tuple[str, ...] = (),
) -> None:
    """Load weights in the layout of `.keras` files: `layers/<class>_<number>/vars/<i>`.

    Args:
        model: a built model.
        group: the HDF5 group with the weights.
        name: name of the file for error messages.
        places: where the weights of the layers are in the file; by default at their names.
        optional: names of layers that may have another shape in the file.
    """
    places = places or Stored()
    used: dict[str, int] = {}
    folder = next((f for f in FOLDERS if f in group), FOLDERS[0])
    for layer in model.layers:
        kind = _container_name(places.classes.get(id(layer), type(layer).__name__))
        if not kind:
            continue
        number = used.setdefault(kind, -1) + 1
        used[kind] = number
        key = f"{folder}/{kind}_{number}" if number else f"{folder}/{kind}"
        key = "/".join(filter(None, (key, places.inside.get(id(layer)))))
        parts = places.parts.get(id(layer), {})
        if not layer.weights and not parts:
            continue
        if key not in group:
            raise UnreadableFile(f"{name}: the weights of the layer {layer.name!r} are missing.")
        if hasattr(layer, "layers"):
            fill_v3(layer, group[key], name, places=places)
            continue
        _fill_layer(layer, group[key], f"{name}: the layer {layer.name!r}", layer.name in optional)
        for part, inner in parts.items():
            if part not in group[key]:
                raise UnreadableFile(f"{name}: the weights of {inner.name!r} are missing.")
            _fill_layer(inner, group[key][part], f"{name}: the layer {inner.name!r}", False)
    settle(model)


def _fill_layer(layer: Any, group: Any, context: str, skip: bool) -> None:
    """Load the variables of a layer and of the layers that it contains."""
    stored = group.get("vars", {})
    arrays = [stored[str(i)] for i in range(len(stored))]
    _assign(stored_variables(layer), arrays, context, skip=skip)
    for part, inner in sublayers(layer).items():
        if not inner.weights:
            continue
        found = next((n for n in (part, f"_{part}") if n in group), None)
        if found is None:
            raise UnreadableFile(f"{context} has no weights for its part {part!r}.")
        _fill_layer(inner, group[found], f"{context}, part {part!r},", skip)


def _assign(variables: list, arrays: list, context: str, *, skip: bool = False) -> None:
    expected, actual = [tuple(v.shape) for v in variables], [tuple(a.shape) for a in arrays]
    if expected != actual:
        if skip:
            return
        raise UnreadableFile(f"{context} has weights of shapes {actual}; expected {expected}.")
    for variable, data in zip(variables, arrays, strict=True):
        variable.assign(np.asarray(h5.array(data, context)))


def _container_name(kind: str) -> str:
    """Name of a layer inside a `.keras` file without its number: its class in snake case."""
    name = re.sub(r"\W+", "", kind)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
