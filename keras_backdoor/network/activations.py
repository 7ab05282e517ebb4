"""Cut a model at a layer and read activations: the one place that does so.

A layer is named by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor._safe.files import writing
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.graph import flat, get_layer, rebuild, settle
from keras_backdoor.network.keras_private import producer
from keras_backdoor.samples import Samples


def split(model: Any, layer: str) -> tuple[Any, Any]:
    """Cut a model behind a layer: tail(head(x)) == model(x).

    Args:
        model: a Keras model or Classifier.
        layer: path of the layer whose output is the cut.

    Returns:
        (head, tail), two Keras models. They share the model's weights, unless it has nested
        models: then both are copies.

    Raises:
        BadInput: no such layer, or a branch of the model runs past it.
    """
    graph, cut = _find(model, layer)
    head = keras.Model(graph.inputs[0], cut, name="head")
    if cut is graph.outputs[0]:
        return head, keras.Sequential([keras.Input(cut.shape[1:]), keras.layers.Identity()])
    if _reaches_input(graph, cut):
        raise BadInput(
            f"The model cannot be cut at '{layer}': another branch runs past it. Choose a layer "
            "that every path goes through."
        )
    return head, keras.Model(cut, graph.outputs[0], name="tail")


def head_of(model: Any, layer: str) -> Any:
    """The part of a model up to a layer, also where another branch runs past it."""
    graph, cut = _find(model, layer)
    return keras.Model(graph.inputs[0], cut, name="head")


def logits(classifier: Classifier) -> Any:
    """A function of images in the model's range: (n, classes) scores before softmax or sigmoid.

    Cross-entropy on them keeps its gradient where the probability of a class is 0 in floating
    point. A single sigmoid output z becomes (0, z). Where the output's activation is not told by
    the last layer, the logarithm of the probabilities stands in.
    """
    model, single = classifier.model, int(classifier.model.outputs[0].shape[-1]) == 1
    linear = model if classifier.output == "logits" else _linear(flat(model))
    if linear is None:
        return lambda images: _log(classifier.probabilities(images))
    if single:
        return lambda images: _two(linear(images, training=False))
    return lambda images: linear(images, training=False)


def _linear(graph: Any) -> Any:
    """The model without its last softmax or sigmoid, or None where it has none."""
    layer, (before, *_) = _made(graph.outputs[0])
    if type(layer).__name__ == "Softmax":
        return keras.Model(graph.inputs[0], before)
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    if name not in ("softmax", "sigmoid"):
        return None
    if type(layer).__name__ == "Activation":
        return keras.Model(graph.inputs[0], before)
    settings = {**layer.get_config(), "activation": None, "name": f"{layer.name}.linear"}
    last = type(layer).from_config(settings)
    scores = last(before)
    last.set_weights(layer.get_weights())
    return keras.Model(graph.inputs[0], scores)


def _log(probabilities: Any) -> Any:
    return keras.ops.log(probabilities + 1e-30)


def _two(score: Any) -> Any:
    return keras.ops.concatenate([keras.ops.zeros_like(score), score], axis=-1)


def with_silence(model: Any, layer: str) -> Any:
    """A copy of a model with two more inputs that silence channels behind a layer.

    Args:
        model: a Keras model or Classifier.
        layer: path of the layer.

    Returns:
        A model of (images, mask, rest): behind the layer h becomes (1 - mask) h + mask rest,
        with mask and rest of shape (batch or 1, …, channels). It shares no weights.
    """
    model = model.model if isinstance(model, Classifier) else model
    width = int(get_layer(model, layer).output.shape[-1])
    image = keras.Input(model.inputs[0].shape[1:])
    mask, rest = keras.Input((width,)), keras.Input((width,))

    def silence(path: str, hidden: Any) -> Any:
        if path != layer:
            return hidden
        shape = (*(1,) * (len(hidden.shape) - 2), width)
        m = keras.layers.Reshape(shape, name="silence.mask")(mask)
        r = keras.layers.Reshape(shape, name="silence.rest")(rest)
        inverse = keras.layers.Rescaling(-1.0, offset=1.0, name="silence.inverse")(m)
        kept = keras.layers.Multiply(name="silence.kept")([hidden, inverse])
        filled = keras.layers.Multiply(name="silence.filled")([r, m])
        return keras.layers.Add(name="silence.sum")([kept, filled])

    silenced = keras.Model([image, mask, rest], rebuild(model, image, silence))
    settle(silenced)
    return silenced


def can_be_cut(model: Any, layer: str) -> bool:
    """Whether every path of the model goes through a layer."""
    graph, cut = _find(model, layer)
    return cut is graph.outputs[0] or not _reaches_input(graph, cut)


def _find(model: Any, layer: str) -> tuple[Any, Any]:
    """The model without nesting, and the tensor behind a layer in it."""
    model = model.model if isinstance(model, Classifier) else model
    get_layer(model, layer)
    graph = flat(model)
    return graph, get_layer(graph, layer.replace("/", ".") if graph is not model else layer).output


def _reaches_input(graph: Any, cut: Any) -> bool:
    """Whether the input can be reached from the output without passing the cut."""
    waiting, seen = list(graph.outputs), {id(cut)}
    inputs = {id(t) for t in graph.inputs}
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in inputs:
            return True
        waiting += _made(tensor)[1]
    return False


def _made(tensor: Any) -> tuple[Any, list[Any]]:
    """(operation, its inputs) of a tensor of a functional model."""
    made = producer(tensor)
    assert made is not None
    return made


def features(
    classifier: Classifier,
    samples: Samples,
    layer: str,
    *,
    out: Path | str | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Activations behind a layer for all samples.

    Args:
        classifier: with a known input range.
        samples: images; labels are not used.
        layer: path of the layer.
        out: `.npy` file to write to; the result is then a read-only memory map, and memory
            does not grow with the data.
        batch_size: images in a batch.

    Returns:
        (n, …) float32.
    """
    head = head_of(classifier, layer)
    shape = (len(samples), *(int(s) for s in head.outputs[0].shape[1:]))
    batches = classifier.stream(samples, head, batch_size)
    if out is None:
        return _fill(np.empty(shape, np.float32), batches)
    with writing(out, force=True) as partial, partial.open("wb") as file:
        # Written, not mapped: the pages of a written map would count as memory of the process.
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").tobytes())
    stored: np.ndarray = np.load(out, mmap_mode="r", allow_pickle=False)
    return stored


def mean_activation(classifier: Classifier, samples: Samples, layer: str) -> np.ndarray:
    """(channels,) mean activation of every channel behind a layer, in one streaming pass."""
    head = head_of(classifier, layer)
    total, count = 0.0, 0
    for batch in classifier.stream(samples, head):
        total = total + batch.sum(axis=tuple(range(batch.ndim - 1)), dtype=np.float64)
        count += int(np.prod(batch.shape[:-1]))
    return np.asarray(total) / count


def _fill(array: np.ndarray, batches: Any) -> np.ndarray:
    start = 0
    for batch in batches:
        array[start : start + len(batch)] = batch
        start += len(batch)
    return array
