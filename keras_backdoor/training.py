"""Reproducible training from a seed that resumes from checkpoints."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor._internals.backend import keras, tf
from keras_backdoor._safe.files import existing, write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.graph import architecture_digest
from keras_backdoor.network.keras_private import seed_states
from keras_backdoor.network.preprocessing import Preprocess, Range, unit_images
from keras_backdoor.network.units import Output
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

AVERAGED_EVERY = 10
"""The number of steps between two sets of weights that are averaged."""
Augment = Callable[[Any, Any, Any], Any]
"""`augment(images, labels, seed) -> images`, or several versions of them, see `fit`."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: number of passes over the data.
        batch_size: number of images per step.
        optimizer: adam, adadelta, rmsprop or sgd.
        learning_rate: learning rate of the optimizer.
        activity_l1: L1 penalty on the outputs of all convolutions, summed over each image; it
            encourages channels to be silent on most images.
        seed: seed of the initial weights, the order of the images and dropout.

    Raises:
        BadInput: if a setting is out of range.
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
            raise BadInput("learning_rate must be above 0 and activity_l1 must be 0 or more.")
        if self.optimizer not in ("adam", "adadelta", "rmsprop", "sgd"):
            raise BadInput(
                f"optimizer must be adam, adadelta, rmsprop or sgd. Received: {self.optimizer}"
            )

    @classmethod
    def from_text(cls, text: str) -> "Recipe":
        """The preset of this name, see `PRESETS`."""
        return recipe(text)

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
    """A recipe from a preset and changes.

    Args:
        preset: a key of `PRESETS`; by default the default recipe is used.
        changes: settings that differ from the preset; strings are converted to their types.

    Raises:
        BadInput: if the preset or a setting does not exist.
    """
    if preset is not None and preset not in PRESETS:
        raise BadInput(f"There is no recipe '{preset}'; there are: {', '.join(PRESETS)}.")
    base = PRESETS[preset] if preset else Recipe()
    changed: Recipe = typed_settings.build(Recipe, {**vars(base), **(changes or {})})
    return changed


def builder(
    architecture: str, classes: int | None = None, weights: Path | None = None
) -> Callable[[], Any]:
    """A function without arguments that builds one of the architectures.

    Args:
        architecture: name of one of `keras_backdoor.architectures`.
        classes: number of classes; by default that of the architecture.
        weights: optional weights file, for architectures that support one.

    Raises:
        BadInput: if the architecture does not exist, or does not support weights.
    """
    module = discovery.module("architectures", architecture)
    build = discovery.load("architectures", architecture)
    options = {} if weights is None else {"weights": existing(weights, "weights file")}
    if options and "weights" not in inspect.signature(build).parameters:
        raise BadInput(f"{architecture} takes no weights: leave out --weights.")
    return lambda: build(classes or module.CLASSES, **options)


def fit(
    model: Any,
    samples: Samples,
    recipe: Recipe,
    *,
    preprocess: Preprocess = (0.0, 1.0),
    validation: Samples | None = None,
    checkpoint: Path | str | None = None,
    until: Callable[[Classifier], bool] | None = None,
    averaged: int = 0,
    augment: Augment | None = None,
    objective: type["Objective"] | Callable[[Classifier, Recipe], "Objective"] | None = None,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Train a model in place.

    On the same machine, the same seed and data result in the same weights, also if the training is
    interrupted and resumed: the weights, the optimizer and the random states are saved to the
    checkpoint after each epoch.

    Args:
        model: a built Keras model, or a function without arguments that builds one. With a
            function, the seed of the recipe also determines the initial weights.
        samples: labeled training data.
        recipe: see `Recipe`.
        preprocess: how pixels become the input of the model, see `Preprocessing.of`.
        validation: labeled data whose accuracy is recorded after each epoch.
        checkpoint: `.npz` file to resume from and to write to.
        until: `until(classifier) -> bool`, called after each epoch; True ends the training. A
            resumed training calls it again after its next epoch.
        averaged: the number of epochs at the end over which the weights are averaged, see
            `MeanWeights`; with 0 the weights are those of the last step.
        augment: `augment(images, labels, seed) -> images`, called in the `tf.data` pipeline with
            (b, h, w, c) float32 images in 0..1, (b,) int64 labels and an int32 tensor (2,), the
            seed of the batch. It consists of TensorFlow operations. If it returns a tuple of
            versions of the images, the objective gets all of them.
        objective: what is minimized, see `Objective`; by default the cross-entropy.

    Returns:
        The trained classifier and its history: `loss`, `accuracy` and, with validation data,
        `validation_accuracy`, one value per epoch.

    Raises:
        BadInput: if the samples have no labels or do not fit the model, the checkpoint belongs to
            another training, or the loss is not finite.
    """
    keras.utils.set_random_seed(recipe.seed)
    is_built = isinstance(model, keras.Model)
    model = model if is_built else model()
    classifier = Classifier(model, preprocess=preprocess)
    classifier.check(samples)
    samples.known_labels  # noqa: B018
    value_range = (0.0, 1.0) if augment else samples.value_range or (0.0, 255.0)
    minimized = (objective or Objective)(classifier, recipe)
    step, optimizer = _make_step(minimized, value_range)
    history: dict[str, list[float]] = {"loss": [], "accuracy": []}
    mean = MeanWeights()
    state = [*model.variables, *_seed_variables(model), *optimizer.variables]
    identity = "" if checkpoint is None else _identity(recipe, samples, classifier, is_built)
    if checkpoint is not None and Path(checkpoint).exists():
        history = _restore(Path(checkpoint), state, mean, identity)
    total = -(-len(samples) // recipe.batch_size)
    start = len(history["loss"])
    batches = samples.batches(
        recipe.batch_size, shuffle=(recipe.seed, start), epochs=max(1, recipe.epochs - start)
    )
    if augment is not None:
        batches = _augmented(batches, augment, samples, (recipe.seed, start * total))
    stream = iter(batches)
    for epoch in range(start, recipe.epochs):
        sums = np.zeros(3)
        label = f"epoch {epoch + 1}/{recipe.epochs}"
        is_averaged = averaged > 0 and epoch >= recipe.epochs - averaged
        for number, (images, labels) in enumerate(track(islice(stream, total), label, total)):
            sums += step(images, labels).numpy()
            if is_averaged and number % AVERAGED_EVERY == 0:
                mean.add(classifier)
        history["loss"].append(float(sums[0] / sums[2]))
        history["accuracy"].append(float(sums[1] / sums[2]))
        if validation is not None:
            predictions = Classifier(model, preprocess=preprocess).predict(validation)
            accuracy = float((predictions == validation.known_labels).mean())
            history.setdefault("validation_accuracy", []).append(accuracy)
        if checkpoint is not None:
            _store(Path(checkpoint), state, mean, history, identity)
        if until is not None and until(classifier):
            break
    if not all(np.isfinite(history["loss"])):
        raise BadInput("The training diverged (the loss is not finite): use a lower learning_rate.")
    if mean.number:
        mean.put(classifier)
    return classifier, history


class MeanWeights:
    """The running mean of a model's weights.

    The statistics of batch normalization are averaged like the weights. In contrast, Izmailov et
    al. recompute them on the training data for the averaged network.

    Attributes:
        number: number of weight sets in the mean.
        weights: the mean of each weight array, float64.
    """

    def __init__(self) -> None:
        self.number = 0
        self.weights: list[np.ndarray] = []

    def add(self, model: Classifier) -> bool:
        """Add the current weights to the mean; return False, so that it can be `until` of `fit`."""
        current = [np.asarray(w, np.float64) for w in model.model.get_weights()]
        self.number += 1
        means = self.weights or current
        self.weights = [m + (w - m) / self.number for m, w in zip(means, current, strict=True)]
        return False

    def put(self, model: Classifier) -> None:
        """Set the weights of the model to the mean."""
        model.model.set_weights(self.weights)


class Objective:
    """What a training minimizes: the cross-entropy and the penalties of the layers.

    Args:
        classifier: the network that is trained.
        recipe: the recipe of the training.
    """

    def __init__(self, classifier: Classifier, recipe: Recipe) -> None:
        self.classifier, self.recipe = classifier, recipe
        self.model = classifier.model
        self.with_convolutions = _with_convolutions(self.model) if recipe.activity_l1 else None

    def forward(self, pixels: Any, training: bool = True) -> tuple[Any, Any]:
        """The scores of a batch, and the scalar penalties of the layers.

        Args:
            pixels: (b, h, w, c) inputs of the model.
            training: whether dropout is active and batch normalization uses the batch.
        """
        if self.with_convolutions is None:
            scores = self.model(pixels, training=training)
            penalty = 0.0
        else:
            scores, *outputs = self.with_convolutions(pixels, training=training)
            total = tf.add_n([tf.reduce_sum(tf.abs(x)) for x in outputs])
            penalty = self.recipe.activity_l1 * total / tf.cast(tf.shape(scores)[0], tf.float32)
        return scores, penalty + tf.add_n([*self.model.losses, 0.0])

    def losses(self, pixels: Any, labels: Any) -> tuple[Any, Any, Any]:
        """The loss of a batch.

        Args:
            pixels: (b, h, w, c) inputs of the model, or a tuple of versions of them.
            labels: (b,) int64.

        Returns:
            The scalar to minimize, (b,) the cross-entropy of each image, and the scores.
        """
        scores, penalty = self.forward(pixels)
        losses = cross_entropy(scores, labels, self.classifier.output)
        return tf.reduce_mean(losses) + penalty, losses, scores

    def gradients(self, pixels: Any, labels: Any) -> tuple[list[Any], Any, Any]:
        """The gradients of the trainable weights.

        Args:
            pixels: see `losses`.
            labels: (b,) int64.

        Returns:
            The gradients, (b,) the cross-entropy of each image, and the scores.
        """
        with tf.GradientTape() as tape:
            loss, losses, scores = self.losses(pixels, labels)
        return tape.gradient(loss, self.model.trainable_variables), losses, scores


def _make_step(objective: Objective, value_range: Range) -> tuple[Callable[[Any, Any], Any], Any]:
    """A compiled training step and its optimizer.

    The step returns (sum of the losses, number of correct predictions, number of images).
    """
    classifier, model = objective.classifier, objective.model
    optimizer = objective.recipe.make_optimizer()
    optimizer.build(model.trainable_variables)
    logits = classifier.output == "logits"

    @tf.function(reduce_retracing=True, autograph=False)
    def step(images: Any, labels: Any) -> Any:
        pixels = tf.nest.map_structure(lambda x: classifier.scaled(x, value_range), images)
        gradients, losses, scores = objective.gradients(pixels, labels)
        optimizer.apply(gradients, model.trainable_variables)
        if scores.shape[-1] > 1:
            predicted = tf.argmax(scores, axis=-1)
        else:
            predicted = tf.cast(scores[:, 0] > (0.0 if logits else 0.5), tf.int64)
        correct = tf.reduce_sum(tf.cast(predicted == labels, tf.float32))
        return tf.stack([tf.reduce_sum(losses), correct, tf.cast(tf.size(labels), tf.float32)])

    return step, optimizer


def _augmented(batches: Any, augment: Augment, samples: Samples, seed: tuple[int, int]) -> Any:
    """The batches with augmented float32 images in 0..1.

    Args:
        batches: the batches of stored pixels.
        augment: see `fit`.
        samples: the samples that the batches are from.
        seed: the seed, and the number of the first batch in the training.
    """

    @tf.autograph.experimental.do_not_convert
    def change(number: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        images = unit_images(batch[0], samples)
        own_seed = tf.stack([seed[0], seed[1] + tf.cast(number, tf.int32)])
        return augment(images, batch[1], own_seed), batch[1]

    return batches.enumerate().map(change, num_parallel_calls=1).prefetch(2)


def cross_entropy(scores: Any, labels: Any, kind: Output) -> Any:
    """(n,) the cross-entropy of each image; the binary one for sigmoid outputs."""
    logits = kind == "logits"
    if scores.shape[-1] == 1:
        truth = tf.cast(labels, tf.float32)[:, None]
        return keras.losses.binary_crossentropy(truth, scores, from_logits=logits)
    if kind == "sigmoids":
        return keras.losses.binary_crossentropy(tf.one_hot(labels, scores.shape[-1]), scores)
    return keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=logits)


def _with_convolutions(model: Any) -> Any:
    """The model with the outputs of its convolutions as additional outputs."""
    convolutions = [x for x in model.layers if type(x).__name__ == "Conv2D"]
    if not convolutions:
        raise BadInput("activity_l1 needs a convolution in the model.")
    return keras.Model(model.inputs[0], [model.outputs[0], *(x.output for x in convolutions)])


def _seed_variables(model: Any) -> list[Any]:
    known = {id(v) for v in model.variables}
    return [s for s in seed_states(model) if id(s) not in known]


def _identity(recipe: Recipe, samples: Samples, classifier: Classifier, is_built: bool) -> str:
    """Hash of the training that a checkpoint belongs to.

    It does not depend on the number of epochs, so that a training can be extended. It includes the
    weights of a built model; those of a new model follow from the seed of the recipe.
    """
    parts: tuple[Any, ...] = (
        replace(recipe, epochs=1),
        samples.fingerprint(),
        classifier.to_input.range or str(classifier.preprocess),
        architecture_digest(classifier.model),
    )
    if is_built:
        parts = (*parts, classifier.sha256())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _store(path: Path, state: list, mean: MeanWeights, history: dict, identity: str) -> None:
    arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(state)}
    arrays |= {f"mean{i}": w for i, w in enumerate(mean.weights)}
    arrays["averaged"] = np.array(mean.number)
    arrays |= {f"history_{name}": np.array(values) for name, values in history.items()}
    arrays["identity"] = np.array(identity)
    write_npz(path, arrays, force=True, compress=False)


def _restore(path: Path, state: list, mean: MeanWeights, identity: str) -> dict[str, list[float]]:
    stored = Npz(path)
    if "identity" not in stored or str(stored["identity"]) != identity:
        raise BadInput(
            f"{path} is the checkpoint of another recipe, network, range or data: remove it or "
            "pass another file."
        )
    for number, variable in enumerate(state):
        variable.assign(stored[f"v{number}"])
    if "averaged" in stored:
        mean.number = int(stored["averaged"])
        mean.weights = [stored[f"mean{i}"] for i in range(len(state)) if f"mean{i}" in stored]
    names = [n.removeprefix("history_") for n in stored if n.startswith("history_")]
    return {name: stored[f"history_{name}"].tolist() for name in names}
