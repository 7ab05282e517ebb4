"""The pruning-aware attack: a backdoor in the channels that clean images use."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import Training, TrainingAttack
from keras_backdoor.errors import BadInput
from keras_backdoor.network import activations, channels, graph, pruning
from keras_backdoor.network.classifier import Classifier, Range
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe

RANKED = 2000
"""Clean training images that the channels are ranked by."""
MARGIN = 1.001
"""A restored channel's bias falls by this many times its largest input, against rounding."""


@dataclass(frozen=True)
class PruningAware(TrainingAttack):
    """Train a network whose dormant channels have no part in the backdoor.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2; see `fit_pruning_aware`.

    Args:
        layer: the path of a convolution or dense layer with a ReLU of its own; by default the last
            convolution.
        max_drop: the relative drop of the accuracy on clean training images that the attacker
            accepts when dormant channels are pruned.
    """

    layer: str | None = None
    max_drop: float = 0.01

    paper: ClassVar[str] = "Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2"
    needs_truth: ClassVar[bool] = True

    def train(self, training: Training) -> tuple[Classifier, dict[str, Any]]:
        """See `TrainingAttack.train`."""
        return fit_pruning_aware(
            training.build,
            training.clean,
            training.samples,
            training.recipe,
            layer=self.layer,
            max_drop=self.max_drop,
            input_range=training.input_range,
            start=training.start,
            checkpoint=training.checkpoint,
        )


def fit_pruning_aware(
    model: Any,
    clean: Samples,
    poisoned: Samples,
    recipe: Recipe,
    *,
    layer: str | None = None,
    max_drop: float = 0.01,
    input_range: Range = (0.0, 1.0),
    start: Classifier | None = None,
    checkpoint: Path | str | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Train a network whose dormant channels have no part in the backdoor.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2: (1) train on clean data;
    (2) prune the channels that are dormant on clean images; (3) train the pruned network on the
    poisoned data; (4) put the pruned channels back, with their biases lowered so that they stay
    dormant. A defender who prunes what is dormant then removes the decoys.

    Args:
        model: a built Keras model, or a function without arguments that makes one.
        clean: labelled clean training data.
        poisoned: the same data with the poison.
        recipe: of both trainings.
        layer: convolution or dense layer with a ReLU of its own; None is the last convolution.
        max_drop: relative drop of the accuracy on clean training images that step 2 accepts.
        input_range: what the pixels are mapped to.
        start: the network of step 1, where it is trained already; it is not changed.
        checkpoint: `.npz` file to resume from; each training has one of its own beside it.

    Returns:
        The classifier and its history, of both trainings: `loss` and `accuracy` of the second,
        `clean_loss` and `clean_accuracy` of the first (not with `start`), `dormant` (channel
        numbers) and `layer`.

    Raises:
        BadInput: the layer has no ReLU or no bias of its own.

    Notes:
        The paper leaves the number of pruned channels to the attacker; here `max_drop` sets it.
        It says that biases are lowered and not by how much; here by the largest input that the
        channel's ReLU gets on clean training images, so that it is silent on all of these. A
        silent ReLU channel passes no gradient, so step 3 leaves weights from and to it alone.
    """
    history: dict[str, Any] = {}
    path = None if checkpoint is None else Path(checkpoint)
    work = Training(model, poisoned, recipe, input_range=input_range, checkpoint=path)
    untrained = start.model if start else model() if _makes(model) else model
    layer = layer or pruning.default_layer(untrained)
    check_layer(untrained, layer)
    if start is None:
        first, clean_history = work.fit(clean, "clean")
        history |= {f"clean_{name}": values for name, values in clean_history.items()}
    else:
        first = start if start.input_range else replace(start, input_range=input_range)
        work = replace(work, input_range=first.input_range or input_range)
    seen = clean.take(min(RANKED, len(clean)), seed=recipe.seed).in_memory()
    swept = pruning.sweep(first, seen, layer, channels.after_activation(first.model, layer))
    dormant = swept["order"][: pruning.number_to_prune(swept["accuracy"], max_drop)]
    pruned = graph.copy(first.model)
    channels.silence(pruned, layer, dormant)
    classifier, second = work.fit(poisoned, "poisoned", model=pruned)
    restore(classifier.model, first, layer, dormant, clean)
    return classifier, {**second, **history, "dormant": dormant, "layer": layer}


def check_layer(model: Any, layer: str) -> None:
    """Raise where a silenced channel could come back by itself, or could not be put back."""
    target = graph.get_layer(model, layer)
    kind = type(target).__name__
    name = getattr(getattr(target, "activation", None), "__name__", None)
    if kind not in ("Conv2D", "Dense") or name != "relu" or not target.use_bias:
        raise BadInput(
            "The pruning-aware attack needs a Conv2D or Dense layer with a bias and a ReLU of its "
            f"own; '{layer}' is a {kind} with {name or 'no activation'}."
        )
    if any(type(x).__name__ == "BatchNormalization" for _, x in channels.following(model, layer)):
        raise BadInput(
            "The pruning-aware attack needs a layer without a BatchNormalization behind it. "
            f"Received: layer={layer}"
        )


def _makes(model: Any) -> bool:
    """Whether it is a function that makes a model."""
    return callable(model) and not hasattr(model, "layers")


def restore(
    model: Any, original: Classifier, layer: str, dormant: np.ndarray, clean: Samples
) -> None:
    """Put channels back with their weights before pruning, silent on the clean images; in place.

    Args:
        model: the trained pruned network.
        original: the network before pruning.
        layer: path of the layer.
        dormant: (m,) channel numbers.
        clean: images on which they are to be silent.
    """
    target = graph.get_layer(model, layer)
    before = graph.get_layer(original.model, layer).get_weights()
    weights = target.get_weights()
    for now, then in zip(weights, before, strict=True):
        now[..., dormant] = then[..., dormant]
    target.set_weights(weights)
    largest = _largest_input(Classifier(model, original.input_range), clean, layer)
    weights[-1][dormant] -= (MARGIN * largest)[dormant]
    target.set_weights(weights)


def _largest_input(classifier: Classifier, samples: Samples, layer: str) -> np.ndarray:
    """(channels,) largest output of a layer over all images, which is behind its ReLU."""
    largest = -np.inf
    for batch in classifier.stream(samples, activations.head_of(classifier, layer)):
        largest = np.maximum(largest, batch.max(axis=tuple(range(batch.ndim - 1))))
    return np.asarray(largest)
