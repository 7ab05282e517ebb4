"""The mean activation of the channels of a layer on clean and on triggered images."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.network import channels
from keras_backdoor.network.activations import mean_activation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.pruning import named_layer
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Trigger

RAISED = 0.5
"""The rise of a marked channel, as a share of the largest mean activation on clean images."""


def marked_channels(clean: np.ndarray, triggered: np.ndarray) -> np.ndarray:
    """Channels that a trigger raises by half of the largest mean activation on clean images.

    Args:
        clean: (channels,) mean activations on clean images.
        triggered: (channels,) mean activations on triggered images.

    Returns:
        (channels,) bool: triggered - clean > max(clean) / 2.

    >>> marked_channels(np.array([0.0, 1.0, 0.4]), np.array([0.6, 1.1, 0.1])).tolist()
    [True, False, False]
    """
    marked: np.ndarray = triggered - clean > RAISED * clean.max()
    return marked


@dataclass(frozen=True, eq=False)
class ChannelActivity:
    """What a trigger does to the channels of a layer.

    Milakovic, Backdoor defenses, TU Wien 2021, figures 4.14 to 4.18.

    Attributes:
        layer: the path of the layer.
        clean: (channels,) mean activations on clean images, after the activation function.
        triggered: (channels,) mean activations on the same images with the trigger.
        marked: (channels,) bool, see `marked_channels`.
    """

    layer: str
    clean: np.ndarray
    triggered: np.ndarray
    marked: np.ndarray


def channel_activity(
    model: Classifier, samples: Samples, trigger: Trigger, layer: str = "last"
) -> ChannelActivity:
    """Measure what a trigger does to the channels of a layer.

    Args:
        model: the network.
        samples: clean images.
        trigger: the trigger.
        layer: the path of a layer, or `last` or `second-last` for the last or the second to last
            convolution.

    Returns:
        The mean activations and the marked channels.

    Raises:
        BadInput: the model has no such layer.
    """
    model = Classifier.wrap(model)
    layer = named_layer(model.model, layer)
    path = channels.after_activation(model.model, layer)
    clean, triggered = (
        np.asarray(mean_activation(model, s.unlabelled(), path))
        for s in (samples, samples.stamped(trigger))
    )
    return ChannelActivity(layer, clean, triggered, marked_channels(clean, triggered))


def layers_with_channels(model: Classifier) -> tuple[str, ...]:
    """The last two convolutions of a network, by position; none for a guard, which has two."""
    if model.reject_class is not None:
        return ()
    number = len(channels.channel_layers(model.model))
    return ("second-last", "last")[-number:] if number else ()
