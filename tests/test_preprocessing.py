"""Preprocessing: values by hand, guessing, and everything downstream under it."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse, Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.errors import BadInput, Doubt
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import cards, load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import PRESETS, Preprocessing
from keras_backdoor.network.units import own_preprocessing
from keras_backdoor.samples import Samples
from keras_backdoor.serving import export
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers.patch import Patch

L, A = keras.layers, keras.applications


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_the_presets_are_those_of_keras(mode: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.float32)
    expected = A.imagenet_utils.preprocess_input(images.copy(), mode=mode)
    mapped = Preprocessing.of(mode).of_stored(images, (0.0, 255.0))
    np.testing.assert_allclose(mapped, expected, atol=1e-3)
    np.testing.assert_allclose(Preprocessing.of(mode)(images / 255), expected, atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_pixels_are_the_inverse_and_texts_are_read_again(preset: str) -> None:
    preprocess = Preprocessing.of(preset)
    unit = np.random.default_rng(1).uniform(size=(2, 3, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(preprocess.pixels(preprocess(unit)), unit, atol=1e-5)
    assert Preprocessing.of(str(preprocess)) == preprocess
    assert Preprocessing.from_json(json.loads(json.dumps(preprocess.as_json()))) == preprocess


def test_the_forms_of_a_preprocessing() -> None:
    assert Preprocessing.of((0, 255)).range == (0, 255)
    assert Preprocessing.of("0:1,bgr").order == "bgr"
    assert Preprocessing.of("caffe").range is None
    own = Preprocessing.of("mean=10/20/30,scale=0.5,bgr")
    pixel = np.array([[[30.0, 20.0, 15.0]]]) / 255
    np.testing.assert_allclose(own(pixel), [[[2.5, 0.0, 0.0]]], atol=1e-6)
    assert Preprocessing.from_json(json.loads(json.dumps(own.as_json()))) == own
    for bad in (
        "x",
        "1:0",
        "caffe,gbr",
        "mean=a",
        "mean=1/2",
        "scale=2",
        (1, 2, 3),
        "mean=1,scale=0",
    ):
        with pytest.raises(BadInput):
            Preprocessing.of(bad)
    with pytest.raises(BadInput, match="is for color images"):
        Classifier(keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(2)]), "caffe")


COLORS = np.array([[200, 30, 60], [60, 200, 30], [30, 60, 200], [220, 220, 40]])


def colored(number: int = 60) -> Samples:
    """Images of four colors with noise; the color is the class."""
    rng = np.random.default_rng(3)
    labels = np.arange(number) % 4
    noise = rng.normal(0, 12, (number, 8, 8, 3))
    images = np.clip(COLORS[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
    return Samples(images, labels)


@pytest.fixture(scope="module")
def caffe_net() -> Classifier:
    """A network that is trained on mean-subtracted BGR images."""
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(8, 3, activation="relu", name="conv"),
         L.GlobalAveragePooling2D(), L.Dense(4, activation="softmax")]
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    return fit(model, colored(400), Recipe(epochs=8, learning_rate=0.01), preprocess="caffe")[0]


@pytest.mark.parametrize("preprocess", ["caffe", "0:255,bgr"])
def test_unusual_preprocessings_are_guessed_and_said(preprocess: str) -> None:
    """A network that tells red from blue: 41 % with the channels reversed, 100 % as trained."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = np.clip(COLORS[labels][:, None, None] + rng.normal(0, 9, (200, 4, 4, 3)), 0, 255)
    samples = Samples(images.astype(np.uint8), labels)
    model = keras.Sequential([keras.Input((4, 4, 3)), L.GlobalAveragePooling2D(), L.Dense(4)])
    centers = np.asarray(Preprocessing.of(preprocess)(COLORS / 255.0))
    model.set_weights([2 * centers.T, -(centers**2).sum(axis=1)])
    found = Classifier(model).with_preprocess(samples)
    assert float(evaluate(found, samples).clean_accuracy) == 1.0
    expected = Classifier(model, preprocess).predict(samples)
    np.testing.assert_array_equal(found.predict(samples), expected)
    assert found.preprocess.order == "bgr"
    assert found.pixels.startswith(str(found.preprocess))
    assert "guessed from 200 labeled images: accuracy 100.0%" in found.pixels


def test_a_wrong_preprocessing_that_is_given_is_compared_once() -> None:
    """Four gray levels and the nearest center: a shift by 30 puts one of them into another class."""
    levels, labels = np.array([10, 60, 160, 250]), np.arange(200) % 4
    images = np.broadcast_to(levels[labels][:, None, None, None], (200, 4, 4, 1)).astype(np.uint8)
    samples = Samples(images, labels)
    model = keras.Sequential([keras.Input((4, 4, 1)), L.GlobalAveragePooling2D(), L.Dense(4)])
    model.set_weights([2.0 * levels[None], -(levels**2.0)])
    message = r"-30:225 the accuracy on 200 labeled images is 75.0%, and with 0:255 it is 100.0%"
    with pytest.warns(Doubt, match=message):
        wrong = Classifier(model, "mean=30,scale=1").with_preprocess(samples)
    assert str(wrong.preprocess) == "-30:225"
    wrong.with_preprocess(samples)  # it is compared once
    card = Classifier(model, "mean=30,scale=1", known_from="from the card")
    card.with_preprocess(samples)  # a card is not questioned


def test_labels_from_1_with_a_class_missing(caffe_net) -> None:
    samples = colored(90)
    shifted = samples.labelled(samples.labels + 1).subset(samples.labels < 3)
    with pytest.raises(BadInput, match="and 100.0% if the classes are numbered from 1: subtract 1"):
        Classifier(caffe_net.model, "caffe").with_preprocess(shifted)


def test_too_few_images_to_guess_from(caffe_net) -> None:
    for number in (1, 2):
        with pytest.raises(BadInput, match=f"{number} labeled images? (is|are) too few to find"):
            Classifier(caffe_net.model).with_preprocess(colored(number))


def test_triggers_and_masks_stay_in_pixels(caffe_net) -> None:
    """The recovered trigger of a network is the same for the same pixels under any preprocessing."""
    unit = colored(40)
    images = np.asarray(caffe_net.scaled(unit.read(), (0.0, 255.0)))
    plan = Schedule(steps=6, starts=1, superpixel=1)
    inverted = Inverter(caffe_net, images, plan).search(np.arange(4), seed=0)
    image = keras.Input((8, 8, 3))
    flipped = L.Concatenate()([image[..., 2:3], image[..., 1:2], image[..., 0:1]])
    low, high = (np.array(getattr(PRESETS["caffe"], side)) for side in ("low", "high"))
    scaled = L.Rescaling((high - low).tolist(), offset=low.tolist())(flipped)
    plain = Classifier(keras.Model(image, caffe_net.model(scaled)), (0, 1))
    same = Inverter(plain, np.asarray(plain.scaled(unit.read(), (0, 255))), plan).search(
        np.arange(4), seed=0
    )
    np.testing.assert_allclose(inverted.patterns, same.patterns, atol=1e-2)
    np.testing.assert_allclose(inverted.norms, same.norms, rtol=1e-2)
    answer = NeuralCleanse(runs=1, schedule=plan)(caffe_net, clean=unit)
    shown = answer.examples.reshape(len(answer.examples), -1)
    assert set(map(bytes, shown)) <= set(map(bytes, unit.read().reshape(len(unit), -1)))
    stamped = evaluate(
        caffe_net, unit, trigger=Patch(size=8, row=0, column=0, color="#dcdc28"), target=3
    )
    assert float(stamped.attack_success_rate) == 1.0


def test_repairs_cards_and_exports_keep_it(caffe_net, tmp_path: Path) -> None:
    import tensorflow as tf

    answer = FinePruning(layer="conv")(caffe_net, clean=colored(100))
    answer.save(tmp_path / "r")
    loaded = load_model(tmp_path / "r")
    assert (loaded.preprocess, loaded.known_from) == (
        PRESETS["caffe"],
        "from the card of the model",
    )
    cards.write(tmp_path / "m.h5", caffe_net, {})
    assert json.loads((tmp_path / "m.json").read_text())["preprocess"] == "caffe"
    assert load_model(tmp_path / "m.h5").preprocess == PRESETS["caffe"]
    folder = export(caffe_net, tmp_path / "served")
    served = tf.saved_model.load(str(folder))
    pixels = colored(20).read()
    scores = served.signatures["serving_uint8"](images=tf.constant(pixels))["scores"]
    np.testing.assert_allclose(scores, caffe_net.scores(Samples(pixels)), atol=1e-5)
    with pytest.raises(BadInput, match="preprocessing is not known"):
        export(Classifier(caffe_net.model), tmp_path / "other")


def test_the_first_layers_tell_the_range() -> None:
    image = keras.Input((4, 4, 3))

    def found(hidden) -> str:
        model = keras.Model(image, L.Dense(2)(L.Flatten()(hidden)))
        return str(own_preprocessing(model))

    scaled = L.Rescaling(1 / 127.5)(image)
    assert found(L.Rescaling(1.0, offset=-1.0)(scaled)) == "0:255"
    shifted = L.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(keras.ops.flip(image, -1))
    assert found(shifted) == "0:255"
    assert found(L.Rescaling([2.0, 3.0, 4.0])(image)) == "None"


def test_one_sigmoid_for_each_class_is_its_own_kind_of_output() -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), L.GlobalAveragePooling2D(), L.Dense(4, activation="sigmoid")]
    )
    keras.utils.set_random_seed(0)
    samples = colored(400)
    net, history = fit(model, samples, Recipe(epochs=30, learning_rate=0.05))
    assert net.output == "sigmoids"
    scores = net.scores(samples)
    np.testing.assert_allclose(scores, model(samples.read() / np.float32(255)), atol=1e-5)
    assert float(evaluate(net, samples).clean_accuracy) >= 0.99
    assert history["loss"][-1] < history["loss"][0]
    soft = keras.Sequential(
        [keras.Input((8, 8, 3)), *(type(x).from_config(x.get_config()) for x in model.layers)]
    )
    soft.layers[-1].activation = keras.activations.softmax
    soft.set_weights(model.get_weights())
    plan = Schedule(steps=20, starts=1)
    norms = [
        NeuralCleanse(runs=1, schedule=plan)(m, clean=samples, preprocess=(0, 1)).measures[
            "l1_norm"
        ]
        for m in (model, soft)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-3)
