"""Adversarial images by the fast gradient sign method."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.errors import BadInput
from keras_backdoor.network import activations
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

NONE = -1
"""The class that stands for no target or no source."""


def fgsm(
    model: Any,
    images: Any,
    epsilon: float,
    steps: int = 1,
    target: int | None = None,
    *,
    radius: float | None = None,
    preprocess: Any = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Change images by the fast gradient sign method, once or iterated.

    Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015:
    x <- clip(x + epsilon sign(grad_x J(x, y))) with the cross-entropy J and the label y; with a
    target t, x <- clip(x - epsilon sign(grad_x J(x, t))). Kurakin, Goodfellow and Bengio,
    Adversarial Examples in the Physical World, 2017, iterate it and keep every pixel within a
    radius of its first value.

    Args:
        model: a Classifier or a built `keras.Model`.
        images: `Samples`, an array or (images, labels). Without labels, the predictions of the
            model take their place.
        epsilon: the size of a step, as a share of the range of the pixels, in 0..1.
        steps: the number of steps.
        target: the class to reach; by default the label is left.
        radius: the largest change of a pixel, as a share of the range; by default it may take any
            value in the range, as in Borji, Adversarial examples are useful too!, 2020.
        preprocess: how pixels become the input of the model, if it is not known.
        batch_size: the number of images of a batch.

    Returns:
        (n, h, w, c) float32 adversarial images in 0..1.

    Raises:
        BadInput: a setting is out of range, or the images do not fit the model.
    """
    samples = Samples.wrap(images)
    classifier = Classifier.wrap(model, preprocess=preprocess)
    classifier.check(samples)
    classifier = classifier.with_preprocess(samples)
    check_steps(epsilon, steps, radius)
    if target is not None and not 0 <= target < classifier.classes:
        raise BadInput(
            f"target must be one of the {classifier.classes} classes. Received: {target}"
        )
    if target is None:
        labels = classifier.predict(samples) if samples.labels is None else samples.labels
        targets, sources = np.full(len(samples), NONE), np.asarray(labels)
    else:
        targets, sources = np.full(len(samples), target), np.full(len(samples), NONE)
    move = sign_steps(classifier, epsilon, steps, radius)
    moved, start = [], 0
    for batch, _ in track(samples.batches(batch_size), "images", -(-len(samples) // batch_size)):
        end = start + len(batch)
        unit = unit_images(batch, samples)
        moved.append(move(unit, targets[start:end], sources[start:end])[0].numpy())
        start = end
    return np.concatenate(moved)


def check_steps(epsilon: float, steps: int, radius: float | None = None) -> None:
    """Raise `BadInput` if a setting of the fast gradient sign method is out of range."""
    if not 0 < epsilon <= 1:
        raise BadInput(
            f"epsilon must be above 0 and at most 1, the range of the pixels. Received: {epsilon}"
        )
    if steps < 1:
        raise BadInput(f"steps must be 1 or more. Received: {steps}")
    if radius is not None and not 0 < radius <= 1:
        raise BadInput(f"radius must be above 0 and at most 1. Received: {radius}")


def sign_steps(
    classifier: Classifier, epsilon: float, steps: int, radius: float | None = None
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """A compiled function that takes all steps of a batch.

    Each step is x <- clip(x - epsilon sign(grad_x (J(x, t) - J(x, s)))) with the cross-entropy J, a
    target class t and a source class s, of which one may be missing.

    Args:
        classifier: the model, with a known preprocessing.
        epsilon: the size of a step in 0..1.
        steps: the number of steps.
        radius: the largest change of a pixel, or None.

    Returns:
        `move(images, targets, sources) -> (moved, predicted)`: (b, h, w, c) float32 images in 0..1
        and two (b,) integer arrays, in which `NONE` stands for no class; the images after the
        steps, and (b,) int64, the class that the model predicts for them.
    """
    logits = activations.logits(classifier)
    shape = (None, *classifier.image_shape)

    def loss(images: Any, targets: Any, sources: Any) -> Any:
        logs = tf.nn.log_softmax(logits(classifier.scaled(images, (0.0, 1.0))))
        both = tf.one_hot(targets, classifier.classes) - tf.one_hot(sources, classifier.classes)
        return -tf.reduce_sum(both * logs)

    def move(images: Any, targets: Any, sources: Any) -> tuple[Any, Any]:
        def step(moved: Any) -> tuple[Any]:
            with tf.GradientTape() as tape:
                tape.watch(moved)
                value = loss(moved, targets, sources)
            moved = moved - epsilon * tf.sign(tape.gradient(value, moved))
            moved = tf.clip_by_value(moved, 0.0, 1.0)
            if radius is not None:
                moved = images + tf.clip_by_value(moved - images, -radius, radius)
            return (moved,)

        (moved,) = tf.while_loop(
            lambda _: True, step, (images,), maximum_iterations=steps, parallel_iterations=1
        )
        scores = logits(classifier.scaled(moved, (0.0, 1.0)))
        return moved, tf.argmax(scores, axis=-1)

    classes = tf.TensorSpec((None,), tf.int64)
    compiled = tf.function(move, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, tf.float32), classes, classes
    )
    return lambda images, targets, sources: compiled(
        images, tf.cast(targets, tf.int64), tf.cast(sources, tf.int64)
    )
