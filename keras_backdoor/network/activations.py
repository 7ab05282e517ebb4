"""Split a model at a layer and compute the activations of a layer.

A layer is identified by its path: `conv_3`, or `backbone/conv_3` inside a nested model.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor._safe.files import writing
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.graph import (
    flat,
    get_layer,
    give_weights,
    rebuild,
    settle,
    weights_of,
)
from keras_backdoor.network.keras_private import output_in, producer
from keras_backdoor.samples import Samples


def split(model: Any, layer: str) -> tuple[Any, Any]:
    """Split a model after a layer, so that tail(head(x)) == model(x).

    Args:
        model: a Keras model or Classifier.
        layer: path of the layer after which the model is split.

    Returns:
        (head, tail), two Keras models. They share the weights of the model. If the model contains
        nested models, both are copies.

    Raises:
        BadInput: if the layer does not exist, or another branch of the model bypasses it.
    """
    graph, cut = _locate(model, layer)
    head = keras.Model(graph.inputs[0], cut, name="head")
    if cut is graph.outputs[0]:
        return head, keras.Sequential([keras.Input(cut.shape[1:]), keras.layers.Identity()])
    if _reaches_input(graph, cut):
        raise BadInput(
            f"The model cannot be split at '{layer}': another branch bypasses it. Choose a layer "
            "that every path goes through."
        )
    return head, keras.Model(cut, graph.outputs[0], name="tail")


def head_of(model: Any, layer: str) -> Any:
    """The part of a model up to a layer, even if another branch bypasses the layer."""
    graph, cut = _locate(model, layer)
    return keras.Model(graph.inputs[0], cut, name="head")


def logits(classifier: Classifier) -> Any:
    """A function that maps images in the model's range to (n, classes) logits.

    The gradient of cross-entropy on logits does not vanish when the probability of a class
    underflows to 0. A single sigmoid output with logit z becomes (0, z). If the last layer does
    not reveal the activation of the output, the logarithm of the probabilities is returned.
    """
    single = int(classifier.model.outputs[0].shape[-1]) == 1
    linear = linear_scores(classifier)
    if linear is None:
        return lambda images: _log_probabilities(classifier.probabilities(images))
    if single:
        return lambda images: _two_logits(linear(images, training=False))
    return lambda images: linear(images, training=False)


def linear_scores(classifier: Classifier) -> Any:
    """The model without its final softmax or sigmoid, or None if its end is unknown."""
    model = classifier.model
    return model if classifier.output == "logits" else _without_activation(flat(model))


def _without_activation(graph: Any) -> Any:
    """The model without its final softmax or sigmoid, or None if it has none."""
    layer, (before, *_) = _operation_of(graph.outputs[0])
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
    give_weights(last, weights_of(layer))
    return keras.Model(graph.inputs[0], scores)


def _log_probabilities(probabilities: Any) -> Any:
    return keras.ops.log(probabilities + 1e-30)


def _two_logits(score: Any) -> Any:
    return keras.ops.concatenate([keras.ops.zeros_like(score), score], axis=-1)


def with_silence(model: Any, layer: str) -> Any:
    """A copy of a model with two additional inputs that silence channels of a layer's output.

    Args:
        model: a Keras model or Classifier.
        layer: path of the layer.

    Returns:
        A model with inputs (images, mask, pruned), which shares no weights with the original. The
        output h of the layer becomes (1 - mask) h + mask pruned. The inputs mask and pruned have
        shape (batch, channels) or (1, channels); pruned is the activation of a pruned channel.
    """
    model = model.model if isinstance(model, Classifier) else model
    width = int(get_layer(model, layer).output.shape[-1])
    image = keras.Input(model.inputs[0].shape[1:])
    mask, pruned = keras.Input((width,)), keras.Input((width,))

    def silence(path: str, hidden: Any) -> Any:
        if path != layer:
            return hidden
        shape = (*(1,) * (len(hidden.shape) - 2), width)
        masks = keras.layers.Reshape(shape, name="silence.mask")(mask)
        constants = keras.layers.Reshape(shape, name="silence.rest")(pruned)
        inverse = keras.layers.Rescaling(-1.0, offset=1.0, name="silence.inverse")(masks)
        kept = keras.layers.Multiply(name="silence.kept")([hidden, inverse])
        filled = keras.layers.Multiply(name="silence.filled")([constants, masks])
        return keras.layers.Add(name="silence.sum")([kept, filled])

    silenced = keras.Model([image, mask, pruned], rebuild(model, image, silence))
    settle(silenced)
    return silenced


def can_be_cut(model: Any, layer: str) -> bool:
    """Whether every path of the model goes through a layer."""
    graph, cut = _locate(model, layer)
    return cut is graph.outputs[0] or not _reaches_input(graph, cut)


def _locate(model: Any, layer: str) -> tuple[Any, Any]:
    """The model without nested models, and the output tensor of a layer in it."""
    model = model.model if isinstance(model, Classifier) else model
    get_layer(model, layer)
    graph = flat(model)
    name = layer.replace("/", ".") if graph is not model else layer
    return graph, output_in(graph, get_layer(graph, name))


def _reaches_input(graph: Any, cut: Any) -> bool:
    """Whether a path from input to output bypasses the tensor `cut`."""
    pending, visited = list(graph.outputs), {id(cut)}
    inputs = {id(t) for t in graph.inputs}
    while pending:
        tensor = pending.pop()
        if id(tensor) in visited:
            continue
        visited.add(id(tensor))
        if id(tensor) in inputs:
            return True
        pending += _operation_of(tensor)[1]
    return False


def _operation_of(tensor: Any) -> tuple[Any, list[Any]]:
    """(operation, input tensors) that produce a tensor of a functional model."""
    operation_and_inputs = producer(tensor)
    assert operation_and_inputs is not None
    return operation_and_inputs


def features(
    classifier: Classifier,
    samples: Samples,
    layer: str,
    *,
    out: Path | str | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Activations of a layer for all samples.

    Args:
        classifier: the model; its preprocessing must be known.
        samples: the images; labels are not used.
        layer: path of the layer.
        out: optional `.npy` file to write to. The result is then a read-only memory map, and
            memory use does not depend on the number of samples.
        batch_size: number of images per batch.

    Returns:
        (n, …) float32 activations.
    """
    head = head_of(classifier, layer)
    shape = (len(samples), *(int(s) for s in head.outputs[0].shape[1:]))
    batches = classifier.stream(samples, head, batch_size)
    if out is None:
        return _fill(np.empty(shape, np.float32), batches)
    with writing(out, force=True) as partial, partial.open("wb") as file:
        # The dirty pages of a memory map would count toward the memory of the process.
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").tobytes())
    mapped: np.ndarray = np.load(out, mmap_mode="r", allow_pickle=False)
    return mapped


def mean_activation(classifier: Classifier, samples: Samples, layer: str) -> np.ndarray:
    """(channels,) mean activation of each channel of a layer, in one pass over the samples."""
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
