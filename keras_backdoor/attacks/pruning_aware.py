"""The pruning-aware attack: a backdoor in the channels that clean images activate."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import Training, TrainingAttack
from keras_backdoor.errors import BadInput
from keras_backdoor.network import activations, channels, graph, pruning
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocess
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe

RANKED = 2000
"""Number of clean training images used to rank the channels."""
MARGIN = 1.001
"""Factor of the largest input that is subtracted from a bias; above 1 to allow for rounding."""


@dataclass(frozen=True)
class PruningAware(TrainingAttack):
    """Train a network whose dormant channels are not part of the backdoor.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2; see `fit_pruning_aware`.

    Args:
        layer: the path of a convolution or dense layer with ReLU activation; by default the last
            convolution.
        max_drop: the largest relative drop of the accuracy on clean training images that the
            attacker accepts when dormant channels are pruned.
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
            preprocess=training.preprocess,
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
    preprocess: Preprocess = (0.0, 1.0),
    start: Classifier | None = None,
    checkpoint: Path | str | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Train a network whose dormant channels are not part of the backdoor.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018, section 3.2: (1) train on clean data;
    (2) prune the channels that are dormant on clean images; (3) train the pruned network on the
    poisoned data; (4) restore the pruned channels with lower biases, so that they stay dormant. A
    defender who prunes dormant channels then removes only these decoys.

    Args:
        model: a built Keras model, or a function without arguments that builds one.
        clean: labeled clean training data.
        poisoned: the same data with poison.
        recipe: the recipe of both trainings.
        layer: path of a convolution or dense layer with ReLU activation; by default the last
            convolution.
        max_drop: largest relative drop of the accuracy on clean training images in step 2.
        preprocess: how pixels become the input of the network, see `Preprocessing.of`.
        start: the network of step 1 if it is already trained; it is not changed.
        checkpoint: `.npz` file to resume from. Each training has its own file, whose name is
            derived from this one.

    Returns:
        The classifier and the history of both trainings: `loss` and `accuracy` of the second,
        `clean_loss` and `clean_accuracy` of the first (not with `start`), `dormant` (channel
        numbers) and `layer`.

    Raises:
        BadInput: if the layer has no ReLU activation or no bias, or a BatchNormalization follows.

    Notes:
        The paper leaves the number of pruned channels to the attacker; here `max_drop` determines
        it. The paper does not specify how far biases are lowered. Here, they are lowered by the
        largest input of the channel's ReLU on clean training images, so that the channel is silent
        on all of them. A silent ReLU channel passes no gradient, so step 3 does not change the
        weights from and to it.
    """
    history: dict[str, Any] = {}
    path = None if checkpoint is None else Path(checkpoint)
    work = Training(model, poisoned, recipe, preprocess=preprocess, checkpoint=path)
    untrained = start.model if start else model() if _is_builder(model) else model
    layer = layer or pruning.default_layer(untrained)
    check_layer(untrained, layer)
    if start is None:
        first, clean_history = work.fit(clean, "clean")
        history |= {f"clean_{name}": values for name, values in clean_history.items()}
    else:
        first = start if start.preprocess else replace(start, preprocess=preprocess)
        work = replace(work, preprocess=first.preprocess or preprocess)
    ranking = clean.take(min(RANKED, len(clean)), seed=recipe.seed).in_memory()
    swept = pruning.sweep(first, ranking, layer, channels.after_activation(first.model, layer))
    dormant = swept["order"][: pruning.number_to_prune(swept["accuracy"], max_drop)]
    pruned = graph.copy(first.model)
    channels.silence(pruned, layer, dormant)
    classifier, second = work.fit(poisoned, "poisoned", model=pruned)
    restore(classifier.model, first, layer, dormant, clean)
    return classifier, {**second, **history, "dormant": dormant, "layer": layer}


def check_layer(model: Any, layer: str) -> None:
    """Check that silenced channels of a layer stay silent in training and can be restored.

    Raises:
        BadInput: if the layer has no ReLU activation or no bias, or a BatchNormalization follows.
    """
    target = graph.get_layer(model, layer)
    kind = type(target).__name__
    name = getattr(getattr(target, "activation", None), "__name__", None)
    if kind not in ("Conv2D", "Dense") or name != "relu" or not target.use_bias:
        raise BadInput(
            "The pruning-aware attack needs a Conv2D or Dense layer with a bias and "
            f"activation='relu'; '{layer}' is a {kind} with {name or 'no activation'}."
        )
    if any(type(x).__name__ == "BatchNormalization" for _, x in channels.following(model, layer)):
        raise BadInput(
            "The pruning-aware attack needs a layer without a BatchNormalization after it. "
            f"Received: layer={layer}"
        )


def _is_builder(model: Any) -> bool:
    """Whether `model` is a function that builds a model."""
    return callable(model) and not hasattr(model, "layers")


def restore(
    model: Any, original: Classifier, layer: str, dormant: np.ndarray, clean: Samples
) -> None:
    """Restore the weights of pruned channels, in place, with biases that silence the channels.

    Args:
        model: the trained pruned network.
        original: the network before pruning.
        layer: path of the layer.
        dormant: (m,) channel numbers.
        clean: images on which the restored channels stay silent.
    """
    target = graph.get_layer(model, layer)
    original_weights = graph.get_layer(original.model, layer).get_weights()
    weights = target.get_weights()
    for array, original_array in zip(weights, original_weights, strict=True):
        array[..., dormant] = original_array[..., dormant]
    target.set_weights(weights)
    largest = _largest_input(Classifier(model, original.preprocess), clean, layer)
    weights[-1][dormant] -= (MARGIN * largest)[dormant]
    target.set_weights(weights)


def _largest_input(classifier: Classifier, samples: Samples, layer: str) -> np.ndarray:
    """(channels,) largest output of a layer, after its ReLU, over all images."""
    largest = -np.inf
    for batch in classifier.stream(samples, activations.head_of(classifier, layer)):
        largest = np.maximum(largest, batch.max(axis=tuple(range(batch.ndim - 1))))
    return np.asarray(largest)
