"""Read the weights of VGG-Face from the files in which they are distributed."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe import h5, matconvnet
from keras_backdoor._safe.files import existing
from keras_backdoor.errors import HostileFile, UnreadableFile
from keras_backdoor.loading.model_weights import fill_v3, is_v3

Pair = tuple[np.ndarray, np.ndarray]
"""The kernel and the bias of a layer."""
MATLAB = ".mat"
PREPROCESSES = {MATLAB: "mean=129.1863/104.7624/93.5940,scale=1", ".h5": "vggface"}
"""File ending -> preprocessing. MatConvNet reads images as RGB; `rcmalli_vggface_tf_vgg16.h5` of
`keras-vggface` takes the same means in the order BGR. A weights file does not say which order it
was made for; that of other ports is known where they are published."""


def load_into(model: Any, path: Path | str, *, optional: str = "fc8") -> None:
    """Load the weights of VGG-Face into a network, in place.

    Args:
        model: the network.
        path: a `.mat` file, or a weights-only HDF5 file of Keras; see `read`.
        optional: the name of a layer that keeps its weights if those of the file are missing or
            have another shape.

    Raises:
        UnreadableFile: the weights do not fit the network.
        HostileFile: a value is not finite, or the file is refused by `_safe`.
    """
    path = existing(path, "weights file")
    if path.suffix.lower() != MATLAB:
        with h5.checked(path, str(path)) as file:
            if is_v3(file):
                fill_v3(model, file, str(path), optional=(optional,))
                return
    assign(model, read(path), str(path), optional=optional)


def channels(path: Path | str) -> int:
    """The number of channels of the first convolution; 64 in the published network."""
    path = existing(path, "weights file")
    if path.suffix.lower() != MATLAB:
        with h5.checked(path, str(path)) as file:
            if is_v3(file):
                return int(file["layers/conv2d/vars/0"].shape[-1])
    return int(next(iter(read(path).values()))[0].shape[-1])


def read(path: Path | str) -> dict[str, Pair]:
    """Read the weights of the layers with weights, in the order of the network.

    Two kinds of files are read: `vgg-face.mat` of MatConvNet and `vgg_face.mat` of the authors, and
    weights-only HDF5 files of networks that were converted to Keras, with dense layers or with
    convolutions in their place. Only numbers are read, and nothing is run.

    Args:
        path: a `.mat` or an `.h5` file.

    Returns:
        Name of the layer in the file -> (kernel, bias), float32. The kernels of convolutions are
        (h, w, channels in, channels out).

    Raises:
        UnreadableFile: the file has another form.
        HostileFile: a value is not finite, or the file is refused by `_safe`.
    """
    path = existing(path, "weights file")
    found = matconvnet.layers(path) if path.suffix.lower() == MATLAB else _of_h5(path)
    for name, pair in found.items():
        if not all(np.isfinite(values).all() for values in pair):
            raise HostileFile(f"{path}: the layer '{name}' has NaN or infinite weights.")
    return found


def assign(model: Any, weights: dict[str, Pair], source: str, *, optional: str = "") -> None:
    """Set the weights of a network in order; all shapes are checked before.

    The kernel of a convolution that takes the place of a dense layer has the same values in the
    same order, because `Flatten` keeps (h, w, channels).

    Args:
        model: the network.
        weights: the result of `read`.
        source: the name of the file, for messages.
        optional: the name of a layer that keeps its weights if those of the file are missing or
            have another shape.

    Raises:
        UnreadableFile: the weights do not fit the network.
    """
    layers = [layer for layer in model.layers if layer.weights]
    pairs = list(weights.items())
    lacking = [layer.name for layer in layers[len(pairs) :]]
    if len(pairs) > len(layers) or set(lacking) - {optional}:
        raise UnreadableFile(
            f"{source} has the weights of {len(pairs)} layers; the network {model.name} has "
            f"{len(layers)}."
        )
    fitting = []
    for layer, (name, (kernel, bias)) in zip(layers, pairs, strict=False):
        shapes = [tuple(w.shape) for w in layer.weights]
        if len(shapes[0]) == 2 and kernel.ndim == 4 and kernel.size:
            kernel = kernel.reshape(-1, kernel.shape[-1])
        if [kernel.shape, bias.shape] == shapes:
            fitting.append((layer, kernel, bias))
        elif layer.name != optional:
            raise UnreadableFile(
                f"{source}: the layer '{name}' has weights of shapes {kernel.shape} and "
                f"{bias.shape}; expected {shapes[0]} and {shapes[1]}."
            )
    for layer, kernel, bias in fitting:
        layer.set_weights([kernel, bias])


def _of_h5(path: Path) -> dict[str, Pair]:
    found = {}
    with h5.checked(path, str(path)) as file:
        group = file.get("model_weights", file)
        for name in h5.names(group, "layer_names"):
            stored = [group[name][key] for key in h5.names(group[name], "weight_names")]
            if stored and len(stored) != 2:
                raise UnreadableFile(f"{path}: the layer '{name}' has {len(stored)} weights.")
            if stored:
                found[name] = tuple(h5.array(data, f"{path}: {name}") for data in stored)
    if not found:
        raise UnreadableFile(f"{path} has no layers with weights (layer_names).")
    return found  # type: ignore[return-value]
