"""Ranges, outputs and what does not fit."""

import numpy as np
import pytest

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.metrics import Rate
from keras_backdoor.network import activations
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.units import at_chance, own_preprocessing
from keras_backdoor.samples import Samples

L = keras.layers


def brightness_net(high: float, first: list | None = None) -> keras.Model:
    """Class 1 where the image is brighter than half of `high`."""
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), *(first or []), L.Flatten(), L.Dense(2, name="out")]
    )
    kernel = np.zeros((16, 2), np.float32)
    kernel[:, 1] = 1 / 16
    model.get_layer("out").set_weights([kernel, np.array([0, -high / 2], np.float32)])
    return model


def bright_and_dark() -> Samples:
    images = np.concatenate([np.full((20, 4, 4, 1), v, np.uint8) for v in (40, 220)])
    return Samples(images, np.repeat([0, 1], 20))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0)])
def test_labelled_clean_images_tell_the_range(bounds: tuple) -> None:
    classifier = Classifier(brightness_net(bounds[1]))
    assert classifier.preprocess is None
    assert classifier.with_preprocess(bright_and_dark()).preprocess.range == bounds


def test_an_unknown_range_is_an_error_that_names_the_option() -> None:
    for evidence in (None, bright_and_dark().unlabelled()):
        with pytest.raises(ValueError, match=r"pass preprocess=\(0, 1\)"):
            Classifier(brightness_net(1.0)).with_preprocess(evidence)
    with pytest.raises(ValueError, match="preprocessing is not known"):
        Classifier(brightness_net(1.0)).predict(bright_and_dark())


def test_a_wrong_range_is_an_error_that_names_the_right_one() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(16, name="out")])
    bias = np.full(16, -0.5, np.float32)
    model.get_layer("out").set_weights([np.eye(16, dtype=np.float32), bias])
    bias[0] = 100.0
    model.get_layer("out").set_weights([np.eye(16, dtype=np.float32), bias])
    labels = np.asarray(model(images.astype(np.float32))).argmax(axis=1)
    kept = Samples(images, labels).subset(labels != 0)
    with pytest.raises(
        ValueError, match=r"at random with the preprocessing 0:1 .*preprocess 0:255"
    ):
        Classifier(model, preprocess=(0, 1)).with_preprocess(kept)
    assert Classifier(model, preprocess=(0, 255)).with_preprocess(kept).preprocess.range == (0, 255)


@pytest.mark.parametrize(
    ("layer", "bounds"),
    [
        (L.Rescaling(1 / 255), (0, 255)),
        (L.Rescaling(1 / 127.5, offset=-1), (0, 255)),
        (L.Rescaling(2.0, offset=-1), (0, 1)),
    ],
)
def test_a_rescaling_first_layer_tells_the_range(layer, bounds: tuple) -> None:
    model = brightness_net(1.0, [layer])
    assert own_preprocessing(model).range == bounds
    assert Classifier(model).preprocess.range == bounds


def test_outputs_are_recognised() -> None:
    def net(*last) -> Classifier:
        return Classifier(
            keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), *last]), preprocess=(0, 1)
        )

    samples = bright_and_dark()
    kinds = {
        "probabilities": net(L.Dense(3, activation="softmax")),
        "logits": net(L.Dense(3)),
        "sigmoid": net(L.Dense(1, activation="sigmoid")),
    }
    for name, classifier in kinds.items():
        assert classifier.output == name
        scores = classifier.scores(samples)
        assert scores.shape == (40, 2 if name == "sigmoid" else 3)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert net(L.Dense(1)).output == "logits"
    assert net(L.Dense(1)).classes == 2
    assert net(L.Dense(3), L.Softmax()).output == "probabilities"


def test_what_does_not_fit_is_one_sentence() -> None:
    classifier = Classifier(brightness_net(1.0), preprocess=(0, 1))
    with pytest.raises(
        ValueError, match="images with 1 channel.* and these have 3: pass channels=1"
    ):
        classifier.predict(Samples(np.zeros((2, 5, 4, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"of 4x4x1 .* 5x4x1: pass size=\(4, 4\) or other data"):
        classifier.predict(Samples(np.zeros((2, 5, 4, 1), np.uint8)))
    with pytest.raises(
        ValueError, match=r"must lie in 0\.\.1, the classes of the model\. Received: label 2"
    ):
        classifier.check(Samples(np.zeros((1, 4, 4), np.uint8), [2]))
    with pytest.raises(ValueError, match="Received: str"):
        Classifier.wrap("model.h5")
    with pytest.raises(ValueError, match="must be below"):
        Classifier(brightness_net(1.0), preprocess=(1, 0))
    with pytest.raises(ValueError, match="must map images"):
        Classifier(keras.Sequential([keras.Input((4,)), L.Dense(2)]))
    with pytest.raises(ValueError, match="must be built"):
        Classifier(keras.Sequential([L.Dense(2)]))


def test_the_hash_follows_the_weights() -> None:
    one, same, other = brightness_net(1.0), brightness_net(1.0), brightness_net(2.0)
    assert Classifier(one).sha256() == Classifier(one).sha256()
    assert Classifier(same).sha256() != Classifier(other).sha256()


def test_a_float_range_maps_like_bytes() -> None:
    classifier = Classifier(brightness_net(255.0), preprocess=(0, 255))
    whole = bright_and_dark()
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        unit = Samples(whole.read() / 255 * (high - low) + low, value_range=(low, high))
        np.testing.assert_allclose(classifier.scores(unit), classifier.scores(whole), atol=1e-4)


def test_a_nested_head_with_one_sigmoid_output() -> None:
    inner = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Flatten(), L.Dense(1, activation="sigmoid")], name="head"
    )
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Rescaling(1 / 255), inner])
    assert Classifier(model).output == "sigmoid"


def test_an_unknown_range_is_not_guessed_where_nothing_fits(badnet, clean) -> None:
    wrong = Samples(clean.read(), (clean.labels + 1) % 10)
    model = badnet.model
    with pytest.raises(ValueError, match="is at chance with every one that was tried"):
        Classifier(model).with_preprocess(wrong)
    with (
        pytest.warns(UserWarning, match="check the labels, the order of the classes"),
        pytest.raises(ValueError, match="no better than chance: check preprocess"),
    ):
        FinePruning()(badnet, clean=wrong)


def test_chance_is_judged_for_any_number_of_classes() -> None:
    labels = np.repeat([0, 1], 50)
    assert at_chance(Rate(50, 100), labels, 2)
    assert not at_chance(Rate(90, 100), labels, 2)
    assert not at_chance(Rate(90, 100), np.zeros(100, int), 10)
    skewed = np.r_[np.zeros(40, int), np.arange(60) % 10]
    assert at_chance(Rate(45, 100), skewed, 10)


def test_a_binary_net_with_the_wrong_range_is_refused() -> None:
    from test_classifier import bright_and_dark, brightness_net

    with pytest.raises(ValueError, match="at random with the preprocessing 0:1 .* 0:255"):
        Classifier(brightness_net(255.0), preprocess=(0, 1)).with_preprocess(bright_and_dark())


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [(1 / 255, -0.5, (0, 255)), (255.0, 0.0, (0, 1)), (0.5, 0.5, (-1, 1)), (3.7, 0.2, None)],
)
def test_unusual_rescalings(scale: float, offset: float, expected: tuple | None) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Rescaling(scale, offset=offset)])
    found = own_preprocessing(model)
    assert (found and found.range) == expected
    assert own_preprocessing(
        keras.Sequential([keras.Input((4, 4, 3)), L.Rescaling([1.0, 2.0, 3.0])])
    ) is None  # fmt: skip


def test_another_range_is_another_computation(badnet, clean) -> None:
    few = clean.take(20)
    first = activations.features(badnet, few, "conv_1")
    other = activations.features(Classifier.wrap(badnet, preprocess=(0, 255)), few, "conv_1")
    assert not np.allclose(first, other)
    assert not np.allclose(
        badnet.scores(few), Classifier.wrap(badnet, preprocess=(-1, 0)).scores(few)
    )


def test_names_do_not_count_and_weights_do() -> None:
    def net(name: str) -> Classifier:
        model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(3, name=name)])
        model.get_layer(name).set_weights([np.ones((16, 3)), np.zeros(3)])
        return Classifier(model)

    one, other = net("a"), net("b")
    assert one.sha256() == other.sha256()
    other.model.get_layer("b").set_weights([np.zeros((16, 3)), np.zeros(3)])
    assert one.sha256() != other.sha256()
