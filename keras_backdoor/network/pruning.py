"""Which channels clean images do not use, and what silencing them costs."""

from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.errors import BadInput
from keras_backdoor.network import activations, channels
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

BATCH = 256


def number_to_prune(accuracy: np.ndarray, max_drop: float) -> int:
    """Channels that can be silenced before the accuracy first falls by more than `max_drop`.

    Args:
        accuracy: (channels + 1,) accuracy with 0, 1, 2, … channels silenced.
        max_drop: relative to the accuracy with none silenced.

    Returns:
        k = (first i with accuracy[i] < (1 - max_drop) accuracy[0]) - 1.

    >>> number_to_prune(np.array([0.98, 0.98, 0.97, 0.90, 0.97]), 0.04)
    2
    """
    below = np.flatnonzero(accuracy < (1.0 - max_drop) * accuracy[0])
    return int(below[0]) - 1 if len(below) else len(accuracy) - 1


def default_layer(model: Any) -> str:
    """The last convolution, or the last hidden dense layer."""
    found = channels.channel_layers(model) or channels.hidden_dense(model)
    if not found:
        raise BadInput("The model has neither a convolution nor a hidden dense layer to prune.")
    return found[-1]


def sweep(model: Classifier, clean: Samples, layer: str, place: str) -> dict[str, np.ndarray]:
    """Rank the channels of a layer behind `place` and measure what silencing them costs.

    Returns:
        `order` (channels,) least active first; `activation` (channels,) mean activation;
        `accuracy` (channels,) for 0 to channels - 1 silenced channels.
    """
    activation = activations.mean_activation(model, clean, place)
    order = np.argsort(activation, kind="stable")
    accuracy = accuracy_by_silenced(model, clean, layer, place, order)
    return {"order": order, "activation": activation, "accuracy": accuracy}


def accuracy_by_silenced(
    model: Classifier, samples: Samples, layer: str, place: str, order: np.ndarray
) -> np.ndarray:
    """Accuracy with 0, 1, 2, … channels silenced, in one pass over the samples.

    Where every path of the model goes through the layer, what comes before runs once an image;
    only what follows runs for every number of silenced channels. Memory does not grow with the
    data.

    Args:
        model: with a known input range.
        samples: their labels are the truth; without labels the model's own answers are.
        layer: the layer whose channels are silenced.
        cut: where the silence is felt, see `channels.after_activation`.
        order: (channels,) channel numbers, first silenced first.

    Returns:
        (channels,) shares; the last one has a single channel left.
    """
    cut = channels.mask_layer(model.model, layer, place)
    masks = np.tril(np.ones((len(order), len(order)), np.float32), -1)[:, np.argsort(order)]
    rest = channels.pruned_activation(model.model, layer, cut)
    kind = _Cut if activations.can_be_cut(model, cut) else _Whole
    answers = kind(model, cut, masks, rest)
    right, start = np.zeros(len(masks)), 0
    for winners in model.stream(samples, answers, BATCH):
        stop = start + len(winners)
        truth = winners[:, 0] if samples.labels is None else samples.labels[start:stop]
        right += (winners == truth[:, None]).sum(axis=0)
        start = stop
    return right / len(samples)


class _Answers:
    """(b, masks) winning classes of a batch under every mask."""

    def __init__(self, model: Classifier, cut: str, masks: np.ndarray, rest: np.ndarray) -> None:
        self.model = model
        self.masks, self.rest = tf.constant(masks), tf.constant(rest, tf.float32)
        self.prepare(cut)

    def prepare(self, cut: str) -> None:
        """Build what `start` and `finish` need."""
        raise NotImplementedError

    def start(self, images: Any) -> Any:
        """What is the same under every mask."""
        raise NotImplementedError

    def finish(self, started: Any, mask: Any) -> Any:
        """The scores under one mask."""
        raise NotImplementedError

    def __call__(self, images: Any) -> Any:
        started = self.start(images)

        def winner(mask: Any) -> Any:
            scores = self.finish(started, mask)
            if scores.shape[-1] > 1:
                return tf.argmax(scores, axis=-1, output_type=tf.int32)
            return tf.cast(scores[:, 0] > (0.0 if self.model.output == "logits" else 0.5), tf.int32)

        return tf.transpose(tf.map_fn(winner, self.masks, fn_output_signature=tf.int32))


class _Cut(_Answers):
    """For a layer that every path goes through: the head runs once."""

    def prepare(self, cut: str) -> None:
        self.head, self.tail = activations.split(self.model, cut)

    def start(self, images: Any) -> Any:
        return self.head(images, training=False)

    def finish(self, started: Any, mask: Any) -> Any:
        return self.tail(started * (1.0 - mask) + self.rest * mask, training=False)


class _Whole(_Answers):
    """For a layer in a branch: the whole model runs under every mask."""

    def prepare(self, cut: str) -> None:
        self.silenced = activations.with_silence(self.model, cut)

    def start(self, images: Any) -> Any:
        return images

    def finish(self, started: Any, mask: Any) -> Any:
        return self.silenced([started, mask[None], self.rest[None]], training=False)
