"""The repairs of the literature: their mathematics by hand, and a backdoor that each can remove."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses._tuning import Distillation, Tuning, corrected
from keras_backdoor.defenses.clp import CLP
from keras_backdoor.defenses.fine_tuning import FineTuning
from keras_backdoor.defenses.ft_sam import FTSAM, Sharpness, ascent
from keras_backdoor.defenses.nad import NAD, AttentionDistillation, attention
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Objective, Recipe, fit

L = keras.layers
SHAPE = (10, 10, 1)


def normalized() -> Any:
    """Two convolutions with batch normalization; channel 3 of the first one is extreme."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(16, 3, name="first"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.Conv2D(16, 3, name="second"),
            L.BatchNormalization(),
            L.ReLU(),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )
    gamma = np.ones(16, np.float32)
    gamma[3] = 30.0
    model.get_layer("norm").gamma.assign(gamma)
    return model


def images(number: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, *SHAPE), dtype=np.uint8)


def test_clp_silences_the_extreme_channel_and_no_other() -> None:
    model = Classifier(normalized(), preprocess=(0, 1))
    answer = CLP()(model, clean=images())
    assert answer.summary["silenced channels"] == "1 of 32 in 2 layers"
    kernel = answer.model.get_layer("first").get_weights()[0]
    silent = np.flatnonzero(np.abs(kernel).sum(axis=(0, 1, 2)) == 0)
    assert silent.tolist() == [3]
    assert float(np.asarray(answer.model.get_layer("norm").gamma)[3]) == 0.0


def test_clp_needs_convolutions() -> None:
    flat = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(3)])
    with pytest.raises(ValueError, match="CLP prunes convolutions, and the model has none"):
        CLP()(flat, clean=images(), preprocess=(0, 1))
    with pytest.raises(ValueError, match="deviations must be above 0"):
        CLP(deviations=0)


def test_without_batch_normalization_clp_finds_the_planted_channel(task) -> None:
    answer = CLP(deviations=2.0)(task.model, clean=task.clean)
    assert answer.summary["silenced channels"] == "1 of 13 in 1 layers"
    assert float(task.measure(answer.classifier).attack_success_rate) < 0.2


def test_attention_maps_have_unit_length() -> None:
    maps = attention(tf.random.normal((5, 4, 3, 7), seed=0)).numpy()
    assert maps.shape == (5, 12)
    np.testing.assert_allclose(np.linalg.norm(maps, axis=1), 1.0, atol=1e-6)


def test_distilling_attention_brings_it_closer_to_the_teacher() -> None:
    student, teacher = normalized(), normalized()
    teacher.get_layer("norm").gamma.assign(np.linspace(0.2, 3.0, 16))
    samples = Samples(images(64), np.arange(64) % 3)

    def distance() -> float:
        pixels = samples.read().astype(np.float32) / 255
        maps = [
            attention(keras.Model(m.inputs[0], m.get_layer("first").output)(pixels)).numpy()
            for m in (student, teacher)
        ]
        second = [
            attention(keras.Model(m.inputs[0], m.get_layer("second").output)(pixels)).numpy()
            for m in (student, teacher)
        ]
        return float(np.linalg.norm(maps[0] - maps[1]) + np.linalg.norm(second[0] - second[1]))

    before = distance()
    objective = partial(AttentionDistillation, teacher=teacher, layers=["first", "second"], beta=50)
    fit(student, samples, Recipe(epochs=15, learning_rate=3e-3), objective=objective)
    assert distance() < 0.7 * before


def test_nad_needs_a_convolution() -> None:
    flat = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(3)])
    with pytest.raises(ValueError, match="NAD compares convolutions, and the model has none"):
        NAD()(flat, clean=images(), preprocess=(0, 1))
    for settings in ({"beta": -1.0}, {"layers": 0}):
        with pytest.raises(ValueError, match="beta must be 0 or more and layers 1 or more"):
            NAD(**settings)


def test_the_ascent_is_as_long_as_rho_where_all_weights_are_one() -> None:
    weights, gradients = [tf.ones((2, 3)), tf.ones(4)], [tf.fill((2, 3), 2.0), tf.zeros(4)]
    changes = ascent(weights, gradients, 0.3)
    assert float(tf.linalg.global_norm(changes)) == pytest.approx(0.3)
    assert not np.asarray(changes[1]).any()


def test_sharpness_takes_the_gradient_elsewhere_and_restores_the_weights() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(3)])
    classifier = Classifier(model, preprocess=(0, 1))
    pixels = tf.constant(images(8).astype(np.float32) / 255)
    labels = tf.constant(np.arange(8) % 3)
    plain, _, _ = Objective(classifier, Recipe()).gradients(pixels, labels)
    before = [w.copy() for w in model.get_weights()]
    sharp, _, _ = Sharpness(classifier, Recipe(), rho=0.5).gradients(pixels, labels)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.allclose(plain[0], sharp[0], atol=1e-3)
    changes = ascent([tf.constant(w) for w in before], plain, 0.5)
    model.set_weights([w + c.numpy() for w, c in zip(before, changes, strict=True)])
    expected, _, _ = Objective(classifier, Recipe()).gradients(pixels, labels)
    np.testing.assert_allclose(sharp[0], expected[0], atol=1e-5)
    with pytest.raises(ValueError, match="rho must be above 0"):
        FTSAM(rho=0)


def test_distillation_by_hand() -> None:
    """Two images: the teacher is right about the first one and wrong about the second one."""
    model = keras.Sequential([keras.Input((1, 1, 1)), L.Flatten(), L.Dense(3)])
    model.set_weights([np.array([[2.0, 0.0, -2.0]]), np.zeros(3)])
    classifier = Classifier(model, preprocess=(0, 1))
    objective = Distillation(classifier, Recipe(), teacher=classifier)
    learned, taught = tf.constant([0.5, 0.5]), tf.constant([1.0, 1.0])
    pixels = [tf.reshape(x, (2, 1, 1, 1)) for x in (learned, taught)]
    loss, losses, _ = objective.losses(pixels, tf.constant([0, 1], tf.int64))

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    q, p = softmax(np.array([1.0, 0.0, -1.0])), softmax(np.array([2.0, 0.0, -2.0]))
    first, second = -(p * np.log(q)).sum(), -(p[[1, 0, 2]] * np.log(q)).sum()
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-5)
    np.testing.assert_allclose(losses, -np.log(q[:2]), atol=1e-5)


def test_probabilities_are_corrected_by_labels() -> None:
    given = tf.constant([[0.7, 0.1, 0.2], [0.7, 0.1, 0.2]])
    exchanged = corrected(given, tf.constant([0, 2], tf.int64))
    np.testing.assert_allclose(exchanged, [[0.7, 0.1, 0.2], [0.2, 0.1, 0.7]], atol=1e-6)
    two = corrected(tf.constant([[0.1, 0.9], [0.1, 0.9]]), tf.constant([1, 0], tf.int64))
    np.testing.assert_allclose(two, [[0.1, 0.9], [0.9, 0.1]], atol=1e-6)


@pytest.mark.parametrize("output", ["logits", "probabilities", "sigmoids", "single"])
def test_distillation_on_every_kind_of_output(output: str) -> None:
    from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation

    keras.utils.set_random_seed(0)
    units = 1 if output == "single" else 3
    activation = {"logits": None, "probabilities": "softmax"}.get(output, "sigmoid")
    model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(units, activation)])
    pixels, labels = images(90), np.arange(90) % max(2, units)
    short = TriggerAugmentation(tuning=Tuning(steps=8, averaged=0.5))
    answer = short(model, clean=(pixels, labels), preprocess=(0, 1))
    assert np.isfinite(answer.history["loss"]).all()
    assert answer.classifier.scores(Samples(pixels)).shape == (90, max(2, units))


def test_the_length_is_in_steps() -> None:
    assert Tuning(steps=100).epochs(320) == 10
    assert Tuning(steps=100).epochs(33) == 50
    assert Tuning(steps=100).epochs(1_000_000) == 1
    with pytest.raises(ValueError, match="averaged must lie in 0..1"):
        Tuning(averaged=1.0)


def test_fine_tuning_removes_what_nothing_holds_in_place(task) -> None:
    """Without labels it keeps the answers of the examined network."""
    answer = FineTuning(Tuning(steps=60))(task.model, clean=task.clean.unlabelled())
    agreement = (answer.classifier.predict(task.test) == task.model.predict(task.test)).mean()
    assert agreement > 0.9
    assert "many backdoors" in answer.about["caveats"][0]


def test_frozen_layers_are_repaired_too() -> None:
    """A network with a frozen base: a repair changes the base, and leaves it frozen."""
    import keras

    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
        ],
        name="base",
    )
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(base(image))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="head")(hidden))
    base.trainable = False
    before = {name: graph.get_layer(model, name).get_weights() for name in ("base/conv", "head")}
    norm = graph.get_layer(model, "base/norm").get_weights()
    rng = np.random.default_rng(0)
    clean = Samples(rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 3)
    tuning = Tuning(steps=5, averaged=0.0, recipe=Recipe(learning_rate=1e-2))
    answer = FineTuning(tuning=tuning)(model, clean=clean, preprocess=(0, 1))
    for name, weights in before.items():
        assert not np.array_equal(graph.get_layer(answer.model, name).get_weights()[0], weights[0])
    for kept, old in zip(
        graph.get_layer(answer.model, "base/norm").get_weights(), norm, strict=True
    ):
        np.testing.assert_array_equal(kept, old)
    assert [x.name for _, x in graph.walk(answer.model) if x.trainable_weights] == ["head"]
    assert [x.name for _, x in graph.walk(model) if x.trainable_weights] == ["head"]
    with graph.all_trainable(model):
        assert [x.name for _, x in graph.walk(model) if x.trainable_weights] == ["conv", "head"]
