"""Fine-pruning: silence the channels that clean images do not use."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor import _graph, activations, channels
from keras_backdoor._backend import tf
from keras_backdoor._units import at_chance
from keras_backdoor.answers import RepairedModel
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.base import Defense, Evidence, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate
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


@dataclass(frozen=True)
class FinePruning(Defense):
    """Silence channels in the order of their mean activation on clean images.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018: the backdoor lives in channels that are
    dormant on clean images. Channels are silenced one by one, least active first, until the
    accuracy on the clean images falls by more than `max_drop`.

    Args:
        layer: path of the layer that is pruned; None is the last convolution (the paper's), or
            the last hidden dense layer of a net without one.
        max_drop: accepted drop of the accuracy, relative to the accuracy before.
        rank_after: rank channels by their activation behind the nonlinearity, or behind the
            pool that follows (as the CSAW notebook does).

    Notes:
        Without labels the accuracy is the agreement with the examined model.
        At least one channel is kept. Fine-tuning after pruning is not part of this class yet.
    """

    layer: str | None = None
    max_drop: float = 0.04
    rank_after: Literal["activation", "pool"] = "activation"

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018"

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise BadInput(f"max_drop must lie in 0..1. Received: max_drop={self.max_drop}")
        if self.rank_after not in ("activation", "pool"):
            raise BadInput(f"rank_after must be activation or pool: {self.rank_after}")

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Defense.run`."""
        model, clean = evidence.model, evidence.clean
        assert clean is not None
        layer = self.layer or default_layer(model.model)
        place = channels.after_activation(model.model, layer, pool=self.rank_after == "pool")
        swept = evidence.part("sweep", lambda: sweep(model, clean, layer, place))
        start = Rate(round(swept["accuracy"][0] * len(clean)), len(clean))
        if clean.labels is not None and at_chance(start, clean.labels, model.classes):
            raise BadInput(
                f"The model is right on {start:.1%} of the clean images, which is no better than "
                "chance: check --input-range, or pass --unlabelled where the labels are not the "
                "model's classes."
            )
        number = number_to_prune(swept["accuracy"], self.max_drop)
        pruned = _graph.copy(model.model)
        channels.silence(pruned, layer, swept["order"][:number])
        total = len(swept["order"])
        summary = {
            "layer": layer,
            "silenced channels": f"{number} of {total}",
            "accuracy on the clean images": (
                f"{swept['accuracy'][0]:.2%} -> {swept['accuracy'][number]:.2%}"
            ),
        }
        history = {**swept, "pruned": np.array(number), "layer": np.array(layer)}
        return repaired(evidence, pruned, history=history, about={"summary": summary})


def default_layer(model: Any) -> str:
    """The last convolution, or the last hidden dense layer."""
    found = channels.channel_layers(model)
    found = found or [p for p, x in _graph.walk(model) if type(x).__name__ == "Dense"][:-1]
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
    cut = channels.silent_place(model.model, layer, place)
    masks = np.tril(np.ones((len(order), len(order)), np.float32), -1)[:, np.argsort(order)]
    rest = channels.resting(model.model, layer, cut)
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
