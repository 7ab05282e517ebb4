"""Training that can be made again from a seed and goes on after a kill."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor._internals.backend import keras, tf
from keras_backdoor._safe.files import existing, write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier, Range
from keras_backdoor.network.graph import architecture_digest
from keras_backdoor.network.keras_private import seed_states
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the data.
        batch_size: images in a step.
        optimizer: adam, adadelta, rmsprop or sgd.
        learning_rate: of the optimizer.
        activity_l1: L1 penalty on the output of every convolution, summed over an image; it
            teaches the channels to be silent on most images.
        seed: of the initial weights, the order of the images and dropout.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: Literal["adam", "adadelta", "rmsprop", "sgd"] = "adam"
    learning_rate: float = 1e-3
    activity_l1: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {getattr(self, name)}")
        if self.learning_rate <= 0 or self.activity_l1 < 0:
            raise BadInput("learning_rate must be above 0 and activity_l1 at least 0.")
        if self.optimizer not in ("adam", "adadelta", "rmsprop", "sgd"):
            raise BadInput(f"optimizer must be adam, adadelta, rmsprop or sgd: {self.optimizer}")

    def make_optimizer(self) -> Any:
        """A new Keras optimizer."""
        name = {"rmsprop": "RMSprop", "sgd": "SGD"}.get(self.optimizer, self.optimizer.title())
        return getattr(keras.optimizers, name)(learning_rate=self.learning_rate)


PRESETS: dict[str, Recipe] = {
    "thesis-gtsrb": Recipe(epochs=10, batch_size=32, optimizer="adam", learning_rate=1e-3),
    "thesis-deepid": Recipe(epochs=10, batch_size=32, optimizer="adadelta", learning_rate=0.1),
    "thesis-vgg16-face": Recipe(epochs=50, batch_size=32, optimizer="adadelta", learning_rate=0.1),
    "mnist-pixel": Recipe(epochs=5, batch_size=64, optimizer="rmsprop", learning_rate=1e-3),
}
"""Published recipes: Milakovic, TU Wien 2021, table 3.4; the single-pixel MNIST notebook."""


def recipe(preset: str | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A preset (or the default recipe) with changes, which may be text.

    Raises:
        BadInput: no such preset or setting.
    """
    if preset is not None and preset not in PRESETS:
        raise BadInput(f"There is no recipe '{preset}'; there are: {', '.join(PRESETS)}.")
    base = PRESETS[preset] if preset else Recipe()
    made: Recipe = typed_settings.build(Recipe, {**vars(base), **(changes or {})})
    return made


def builder(
    architecture: str, classes: int | None = None, weights: Path | None = None
) -> Callable[[], Any]:
    """A function that builds one of the architectures.

    Raises:
        BadInput: no such architecture, or weights for one that takes none.
    """
    module = discovery.module("architectures", architecture)
    build = discovery.load("architectures", architecture)
    given = {} if weights is None else {"weights": existing(weights, "weights file")}
    if given and "weights" not in inspect.signature(build).parameters:
        raise BadInput(f"{architecture} takes no weights of a trunk.")
    return lambda: build(classes or module.CLASSES, **given)


def fit(
    model: Any,
    samples: Samples,
    recipe: Recipe,
    *,
    input_range: Range = (0.0, 1.0),
    validation: Samples | None = None,
    checkpoint: Path | str | None = None,
    until: Callable[[Classifier], bool] | None = None,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Train a model in place.

    The same seed, data and machine give the same weights, also when the training was killed and
    resumed: weights, optimizer and random state are written after every epoch.

    Args:
        model: a built Keras model, or a function without arguments that makes one; then the
            initial weights follow from the recipe's seed too.
        samples: labelled training data.
        recipe: see `Recipe`.
        input_range: what the pixels are mapped to.
        validation: labelled data whose accuracy is recorded after every epoch.
        checkpoint: `.npz` file to resume from and to write to.
        until: asked after every epoch about the classifier as it is; True ends the training. A
            resumed training asks again after its next epoch.

    Returns:
        The trained classifier and its history: `loss`, `accuracy` (and `validation_accuracy`),
        one value an epoch.
    """
    keras.utils.set_random_seed(recipe.seed)
    begun = isinstance(model, keras.Model)
    model = model if begun else model()
    classifier = Classifier(model, input_range=input_range)
    classifier.check(samples)
    samples.known_labels  # noqa: B018
    step, optimizer = _make_step(classifier, recipe, samples.value_range or (0.0, 255.0))
    history: dict[str, list[float]] = {"loss": [], "accuracy": []}
    state = [*model.variables, *_seeds(model), *optimizer.variables]
    identity = "" if checkpoint is None else _identity(recipe, samples, classifier, begun)
    if checkpoint is not None and Path(checkpoint).exists():
        history = _restore(Path(checkpoint), state, identity)
    total = -(-len(samples) // recipe.batch_size)
    for epoch in range(len(history["loss"]), recipe.epochs):
        batches = samples.batches(recipe.batch_size, shuffle=(recipe.seed, epoch))
        sums = np.zeros(3)
        label = f"epoch {epoch + 1}/{recipe.epochs}"
        for images, labels in track(batches, label, total):
            sums += step(images, labels).numpy()
        history["loss"].append(float(sums[0] / sums[2]))
        history["accuracy"].append(float(sums[1] / sums[2]))
        if validation is not None:
            right = Classifier(model, input_range=input_range).predict(validation)
            accuracy = float((right == validation.known_labels).mean())
            history.setdefault("validation_accuracy", []).append(accuracy)
        if checkpoint is not None:
            _store(Path(checkpoint), state, history, identity)
        if until is not None and until(classifier):
            break
    if not all(np.isfinite(history["loss"])):
        raise BadInput("The training diverged (the loss is not finite): lower learning_rate.")
    return classifier, history


class MeanWeights:
    """The mean of a model's weights at several times.

    The running statistics of batch normalization are averaged like the weights; Izmailov et al.
    take those of the averaged network from the data anew.
    """

    def __init__(self) -> None:
        self.number = 0
        self.weights: list[np.ndarray] = []

    def add(self, model: Classifier) -> bool:
        """Count the weights as they are; always False, so that a training goes on."""
        now = [np.asarray(w, np.float64) for w in model.model.get_weights()]
        self.number += 1
        known = self.weights or now
        self.weights = [k + (n - k) / self.number for k, n in zip(known, now, strict=True)]
        return False

    def put(self, model: Classifier) -> None:
        """Give the model the mean."""
        model.model.set_weights(self.weights)


def _make_step(
    classifier: Classifier, recipe: Recipe, value_range: Range
) -> tuple[Callable[[Any, Any], Any], Any]:
    """One compiled step: (sum of the loss, number right, number of images)."""
    model, optimizer = classifier.model, recipe.make_optimizer()
    optimizer.build(model.trainable_variables)
    logits = classifier.output == "logits"
    watched = _watched(model) if recipe.activity_l1 else None

    @tf.function(reduce_retracing=True, autograph=False)
    def step(images: Any, labels: Any) -> Any:
        pixels = classifier.scaled(images, value_range)
        with tf.GradientTape() as tape:
            if watched is None:
                scores = model(pixels, training=True)
                penalty = 0.0
            else:
                scores, *active = watched(pixels, training=True)
                total = tf.add_n([tf.reduce_sum(tf.abs(x)) for x in active])
                penalty = recipe.activity_l1 * total / tf.cast(tf.size(labels), tf.float32)
            losses = _losses(scores, labels, logits)
            loss = tf.reduce_mean(losses) + penalty + tf.add_n([*model.losses, 0.0])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        if scores.shape[-1] > 1:
            answer = tf.argmax(scores, axis=-1)
        else:
            answer = tf.cast(scores[:, 0] > (0.0 if logits else 0.5), tf.int64)
        right = tf.reduce_sum(tf.cast(answer == labels, tf.float32))
        return tf.stack([tf.reduce_sum(losses), right, tf.cast(tf.size(labels), tf.float32)])

    return step, optimizer


def _losses(scores: Any, labels: Any, logits: bool) -> Any:
    if scores.shape[-1] == 1:
        truth = tf.cast(labels, tf.float32)[:, None]
        return keras.losses.binary_crossentropy(truth, scores, from_logits=logits)
    return keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=logits)


def _watched(model: Any) -> Any:
    """The model with the outputs of its convolutions beside its own."""
    convolutions = [x for x in model.layers if type(x).__name__ == "Conv2D"]
    if not convolutions:
        raise BadInput("activity_l1 needs a convolution in the model.")
    return keras.Model(model.inputs[0], [model.outputs[0], *(x.output for x in convolutions)])


def _seeds(model: Any) -> list[Any]:
    known = {id(v) for v in model.variables}
    return [s for s in seed_states(model) if id(s) not in known]


def _identity(recipe: Recipe, samples: Samples, classifier: Classifier, begun: bool) -> str:
    """What a checkpoint belongs to; the number of epochs may be raised later.

    The weights of a model that was handed over count; those that a function makes follow from
    the recipe's seed.
    """
    parts: tuple[Any, ...] = (
        replace(recipe, epochs=1),
        samples.fingerprint(),
        classifier.input_range,
        architecture_digest(classifier.model),
    )
    if begun:
        parts = (*parts, classifier.sha256())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _store(path: Path, state: list, history: dict, identity: str) -> None:
    arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(state)}
    arrays |= {f"history_{name}": np.array(values) for name, values in history.items()}
    arrays["identity"] = np.array(identity)
    write_npz(path, arrays, force=True, compress=False)


def _restore(path: Path, state: list, identity: str) -> dict[str, list[float]]:
    stored = Npz(path)
    if "identity" not in stored or str(stored["identity"]) != identity:
        raise BadInput(
            f"{path} is the checkpoint of another recipe, network, range or data: remove it or "
            "name another file."
        )
    for number, variable in enumerate(state):
        variable.assign(stored[f"v{number}"])
    names = [n.removeprefix("history_") for n in stored if n.startswith("history_")]
    return {name: stored[f"history_{name}"].tolist() for name in names}
