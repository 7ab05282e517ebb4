"""Rank channels by their mean activation and measure the accuracy after silencing them."""

from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.errors import BadInput
from keras_backdoor.network import activations, channels
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.graph import walk
from keras_backdoor.samples import Samples

BATCH = 256
POSITIONS = {"last": 1, "second-last": 2}
"""Name of a layer -> its position, counted from the end."""


def number_to_prune(accuracy: np.ndarray, max_drop: float) -> int:
    """Number of channels that can be silenced before the accuracy drops by more than `max_drop`.

    Args:
        accuracy: (n,) accuracy with 0, 1, …, n - 1 silenced channels.
        max_drop: the largest accepted drop, relative to the accuracy without silenced channels.

    Returns:
        k = (first i with accuracy[i] < (1 - max_drop) accuracy[0]) - 1.

    >>> number_to_prune(np.array([0.98, 0.98, 0.97, 0.90, 0.97]), 0.04)
    2
    """
    below = np.flatnonzero(accuracy < (1.0 - max_drop) * accuracy[0])
    return int(below[0]) - 1 if len(below) else len(accuracy) - 1


def first_past(accuracy: np.ndarray, drop: float) -> int:
    """Number of silenced channels with which the accuracy has dropped by `drop` or more.

    Args:
        accuracy: (n,) accuracy with 0, 1, …, n - 1 silenced channels.
        drop: the drop, relative to the accuracy without silenced channels.

    Returns:
        k = first i > 0 with accuracy[0] - accuracy[i] >= drop accuracy[0], or n - 1.

    >>> first_past(np.array([0.98, 0.98, 0.97, 0.90, 0.97]), 0.04)
    3
    """
    past = np.flatnonzero(accuracy[0] - accuracy[1:] >= drop * accuracy[0])
    return int(past[0]) + 1 if len(past) else len(accuracy) - 1


def default_layer(model: Any, position: int = 1) -> str:
    """Path of the last convolution, or of the last hidden dense layer.

    Args:
        model: a Keras model.
        position: 1 for the last layer, 2 for the second to last.

    Raises:
        BadInput: if the model has no such layer.
    """
    layers = channels.channel_layers(model) or channels.hidden_dense(model)
    if not layers:
        raise BadInput("The model has neither a convolution nor a hidden dense layer to prune.")
    if position > len(layers):
        raise BadInput(f"The model has a single layer to prune, '{layers[-1]}': name that one.")
    return layers[-position]


def named_layer(model: Any, name: str) -> str:
    """Path of a layer whose channels can be silenced.

    Args:
        model: a Keras model.
        name: a path, or a key of `POSITIONS`, see `default_layer`.

    Raises:
        BadInput: if there is no such layer, or it is neither a convolution nor a dense layer.
    """
    layer = default_layer(model, POSITIONS[name]) if name in POSITIONS else name
    channels.check_channels(model, layer)
    return layer


def sweep(model: Classifier, clean: Samples, layer: str, ranked_at: str) -> dict[str, np.ndarray]:
    """Rank the channels of a layer and measure the accuracy with 0, 1, 2, … of them silenced.

    Args:
        model: the classifier; its preprocessing must be known.
        clean: clean images; if they have no labels, the predictions of `model` are used.
        layer: path of the layer whose channels are silenced.
        ranked_at: path of the layer whose mean activation ranks the channels, see
            `channels.after_activation`.

    Returns:
        A dictionary with `order` (channels,), the channel numbers with the least active first;
        `activation` (channels,), the mean activations; and `accuracy` (channels,), the accuracy
        with 0 to channels - 1 silenced channels.
    """
    activation = activations.mean_activation(model, clean, ranked_at)
    order = np.argsort(activation, kind="stable")
    accuracy = accuracy_by_silenced(model, clean, layer, ranked_at, order)
    return {"order": order, "activation": activation, "accuracy": accuracy}


def accuracy_by_silenced(
    model: Classifier, samples: Samples, layer: str, ranked_at: str, order: np.ndarray
) -> np.ndarray:
    """Accuracy with 0, 1, 2, … silenced channels, in one pass over the samples.

    If every path of the model goes through the layer, the layers before it run once per image, and
    only the layers after it run for each number of silenced channels. Memory use does not depend
    on the number of samples.

    Args:
        model: the classifier; its preprocessing must be known.
        samples: images and labels; without labels, the predictions of `model` are used.
        layer: path of the layer whose channels are silenced.
        ranked_at: path of the layer whose output ranks the channels, see
            `channels.after_activation`.
        order: (channels,) channel numbers, in the order in which they are silenced.

    Returns:
        (channels,) accuracies in 0..1; for the last one, a single channel is not silenced.
    """
    cut = channels.mask_layer(model.model, layer, ranked_at)
    masks = np.tril(np.ones((len(order), len(order)), np.float32), -1)[:, np.argsort(order)]
    pruned = channels.pruned_activation(model.model, layer, cut)
    kind = _SplitPredictions if activations.can_be_cut(model, cut) else _WholePredictions
    predict = kind(model, cut, masks, pruned)
    correct, start = np.zeros(len(masks)), 0
    for predictions in model.stream(samples, predict, BATCH):
        stop = start + len(predictions)
        labels = predictions[:, 0] if samples.labels is None else samples.labels[start:stop]
        correct += (predictions == labels[:, None]).sum(axis=0)
        start = stop
    return correct / len(samples)


class _PredictionsPerMask:
    """(batch, masks) predicted classes of a batch of images for each mask."""

    def __init__(self, model: Classifier, cut: str, masks: np.ndarray, pruned: np.ndarray) -> None:
        self.model = model
        self.masks, self.pruned = tf.constant(masks), tf.constant(pruned, tf.float32)
        self.prepare(cut)

    def prepare(self, cut: str) -> None:
        """Build the models that `start` and `finish` use."""
        raise NotImplementedError

    def start(self, images: Any) -> Any:
        """The computation that does not depend on the mask."""
        raise NotImplementedError

    def finish(self, shared: Any, mask: Any) -> Any:
        """The scores for one mask."""
        raise NotImplementedError

    def __call__(self, images: Any) -> Any:
        shared = self.start(images)

        def predicted_class(mask: Any) -> Any:
            scores = self.finish(shared, mask)
            if scores.shape[-1] > 1:
                return tf.argmax(scores, axis=-1, output_type=tf.int32)
            return tf.cast(scores[:, 0] > (0.0 if self.model.output == "logits" else 0.5), tf.int32)

        return tf.transpose(tf.map_fn(predicted_class, self.masks, fn_output_signature=tf.int32))


class _SplitPredictions(_PredictionsPerMask):
    """For a layer that every path goes through: the layers before it run once."""

    def prepare(self, cut: str) -> None:
        self.head, self.tail = activations.split(self.model, cut)

    def start(self, images: Any) -> Any:
        return self.head(images, training=False)

    def finish(self, shared: Any, mask: Any) -> Any:
        return self.tail(shared * (1.0 - mask) + self.pruned * mask, training=False)


class _WholePredictions(_PredictionsPerMask):
    """For a layer in a branch: the whole model runs for each mask."""

    def prepare(self, cut: str) -> None:
        self.silenced = activations.with_silence(self.model, cut)

    def start(self, images: Any) -> Any:
        return images

    def finish(self, shared: Any, mask: Any) -> Any:
        return self.silenced([shared, mask[None], self.pruned[None]], training=False)


def operations_of(model: Any) -> int:
    """The number of multiplications of the convolutions and dense layers for one image.

    Args:
        model: a Keras model with an input of a fixed size.

    >>> from keras_backdoor._internals.backend import keras
    >>> layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    >>> operations_of(keras.Sequential([*layers, keras.layers.Dense(5)]))
    112
    """
    total = 0
    for _, layer in walk(model):
        if type(layer).__name__ in channels.KERNELS:
            positions = np.prod(layer.output.shape[1:-1]) if layer.output.shape[1:-1] else 1
            kernels = (w for w in layer.get_weights() if w.ndim > 1)
            total += int(positions) * sum(int(w.size) for w in kernels)
    return total
