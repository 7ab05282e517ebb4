"""Delete channels from a network with kerassurgeon, which was written for Keras 2.

kerassurgeon 0.2.0 reads attributes that Keras 3 renamed or removed. While it works, `_keras2` lends
them to the classes of Keras 3; kerassurgeon itself is not changed. No other module imports it.
"""

import contextlib
import importlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import BadInput, one_line
from keras_backdoor.network import graph
from keras_backdoor.network.channels import following, pruned_activation, silence, width
from keras_backdoor.network.keras_private import inbound_nodes, node_class, outbound_nodes

ELEMENTWISE = ("ReLU", "Identity")
"""Layers without weights that kerassurgeon does not know; it takes them for Activation layers."""
DELETABLE = ("Conv2D", "Dense")
"""The layers whose channels kerassurgeon deletes."""
TOLERANCE = 1e-4
"""The largest difference to the model with silenced channels, relative to the largest score."""
_ALONE = threading.Lock()


class Unsupported(BadInput):
    """The channels of a layer cannot be deleted; they can still be set to zero."""


def delete_channels(model: Any, layer: str, chosen: Sequence[int] | np.ndarray) -> Any:
    """Delete channels of a layer, and the weights of later layers that belong to them.

    The new model computes the same as the model whose channels are set to zero by
    `channels.silence`, up to rounding.

    Args:
        model: a functional or sequential model, which is not changed. Nested models are inlined.
        layer: the path of a Conv2D or Dense layer.
        chosen: the channel numbers.

    Returns:
        A functional `keras.Model` without nested models.

    Raises:
        BadInput: there is no such layer, or all channels are chosen.
        Unsupported: kerassurgeon does not support a layer after it, or is not installed.
    """
    chosen = np.unique(np.asarray(chosen, int))
    target = graph.get_layer(model, layer)
    if type(target).__name__ not in DELETABLE:
        raise Unsupported(
            f"Only channels of Conv2D and Dense layers can be deleted; '{layer}' is a "
            f"{type(target).__name__}."
        )
    channels = width(target)
    if len(chosen) and not (chosen[0] >= 0 and chosen[-1] < channels):
        raise BadInput(f"'{layer}' has the channels 0 to {channels - 1}. Received: {chosen}")
    if len(chosen) == channels:
        raise BadInput(f"All {channels} channels of '{layer}' were chosen: keep at least one.")
    last = [path for path, _ in following(model, layer)][-1:] or [layer]
    if np.any(pruned_activation(model, layer, last[0])[chosen]):
        raise Unsupported(
            f"A channel of '{layer}' that is set to zero is not zero after its activation, so "
            "deleting it would change the predictions."
        )
    working = graph.inlined(model)
    if None in working.inputs[0].shape[1:]:
        raise Unsupported(
            "kerassurgeon needs an input of a fixed size, and this model takes images of any size."
        )
    if len(chosen):
        with _keras2(working) as surgeon:
            work = surgeon.Surgeon(working)
            work.add_job(
                "delete_channels",
                working.get_layer(layer.replace("/", ".")),
                channels=chosen.tolist(),
            )
            working = _operated(work, layer)
    pruned = graph.inlined(working)
    _compare(model, pruned, layer, chosen)
    return keras.Model(pruned.inputs[0], pruned.outputs[0], name=model.name)


def _compare(model: Any, pruned: Any, layer: str, chosen: np.ndarray) -> None:
    """Raise `Unsupported` unless the pruned model computes what the silenced one does."""
    silenced = graph.copy(model)
    silence(silenced, layer, chosen)
    images = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:]))
    expected, actual = (
        np.asarray(m(images.astype(np.float32), training=False)) for m in (silenced, pruned)
    )
    if np.abs(expected - actual).max() > TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise Unsupported(
            f"Without the channels of '{layer}', kerassurgeon's network does not compute the same "
            "as with these channels set to zero."
        )


def _operated(work: Any, layer: str) -> Any:
    """The model that kerassurgeon returns; its errors become one sentence."""
    try:
        return work.operate()
    except Exception as error:  # kerassurgeon raises errors of any kind for what it does not know
        raise Unsupported(
            f"kerassurgeon cannot delete channels of '{layer}' in this network: {one_line(error)}"
        ) from error


@contextlib.contextmanager
def _keras2(model: Any) -> Iterator[Any]:
    """Lend the names of Keras 2 to Keras 3, and yield the module of kerassurgeon.

    Args:
        model: the model that is operated on.
    """
    with _ALONE, contextlib.ExitStack() as lent:
        surgeon = _kerassurgeon()
        utils = importlib.import_module("kerassurgeon.utils")
        for owner, name, value in _names():
            lent.enter_context(patch.object(owner, name, value, create=True))
        for name in ELEMENTWISE:
            lent.enter_context(_renamed(getattr(keras.layers, name), "Activation"))
        tensors = SimpleNamespace(Tensor=keras.KerasTensor)
        for module in (surgeon, utils):
            lent.enter_context(patch.object(module, "tf", tensors))
        lent.enter_context(patch.object(surgeon, "TensorDict", _ByIdentity))
        for _, layer in graph.walk(model):
            if type(layer).__name__ == "BatchNormalization":
                lent.enter_context(patch.object(layer, "axis", _Axis(layer.axis)))
        lent.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield surgeon


@contextlib.contextmanager
def _renamed(cls: Any, name: str) -> Iterator[None]:
    """Give a class another name."""
    before, cls.__name__ = cls.__name__, name
    try:
        yield
    finally:
        cls.__name__ = before


def _kerassurgeon() -> Any:
    """Import kerassurgeon, which configures the root logger; this is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return importlib.import_module("kerassurgeon.surgeon")
    except ImportError as error:
        raise Unsupported(
            "Deleting channels needs kerassurgeon: install kerassurgeon==0.2.0 with pip and its "
            f"option no-deps, because the requirements it declares are outdated ({one_line(error)})"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _names() -> Iterator[tuple[Any, str, Any]]:
    """(class, name, value) of everything that Keras 3 calls by another name."""
    layer, node = keras.layers.Layer, node_class()
    yield layer, "inbound_nodes", property(inbound_nodes)
    yield layer, "outbound_nodes", property(outbound_nodes)
    yield layer, "input_shape", property(lambda x: _shape(x.input))
    yield layer, "output_shape", property(lambda x: _shape(x.output))
    yield layer, "from_config", classmethod(_from_config)
    yield node, "outbound_layer", property(lambda x: x.operation)
    yield node, "output_tensors", property(lambda x: x.outputs)
    yield node, "input_shapes", property(lambda x: [tuple(t.shape) for t in x.input_tensors])
    yield node, "output_shapes", property(lambda x: [tuple(t.shape) for t in x.outputs])


def _shape(tensors: Any) -> Any:
    """The shape of a tensor, or the list of the shapes of several tensors."""
    return [tuple(t.shape) for t in tensors] if isinstance(tensors, list) else tuple(tensors.shape)


def _from_config(cls: Any, config: dict[str, Any]) -> Any:
    """Build a layer from its settings; Keras 2 took its weights too and set them when it built."""
    config = dict(config)
    weights = config.pop("weights", None)
    layer = cls(**config)
    if hasattr(layer, "axis") and cls.__name__ == "BatchNormalization":
        layer.axis = _Axis(layer.axis)
    if weights is not None:
        build = layer.build

        def build_with_weights(input_shape: Any) -> None:
            build(input_shape)
            layer.set_weights(weights)

        layer.build = build_with_weights
    return layer


class _Axis(int):
    """An axis that is also a list of one axis, as in Keras 2."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return int(self)


class _ByIdentity(dict[int, Any]):
    """A dictionary whose keys are tensors."""

    def __setitem__(self, tensor: Any, value: Any) -> None:
        super().__setitem__(id(tensor), value)

    def __getitem__(self, tensor: Any) -> Any:
        return super().__getitem__(id(tensor))

    def keys(self) -> Any:
        """Itself, because only `tensor in dictionary.keys()` is asked."""
        return self

    def __contains__(self, tensor: Any) -> bool:
        return super().__contains__(id(tensor))
