"""Surgery: the network without channels is the network with these channels set to zero."""

import logging
import sys
from typing import Any

import numpy as np
import pytest

from keras_backdoor._internals.backend import keras
from keras_backdoor.network import channels, graph, surgery
from keras_backdoor.network.surgery import Unsupported, delete_channels
from keras_backdoor.training import builder

L = keras.layers
SHAPE = (12, 12, 3)


def settled(model: Any, seed: int = 0) -> Any:
    """Random weights that keep the scores apart; variances are positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        size = np.sqrt(np.prod(weight.shape[:-1]) or 1.0)
        values = rng.normal(0, 1.5 / size if len(weight.shape) > 1 else 0.3, weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def difference(model: Any, layer: str, chosen: list[int]) -> float:
    pruned, silenced = delete_channels(model, layer, chosen), graph.copy(model)
    channels.silence(silenced, layer, chosen)
    assert pruned.count_params() < model.count_params()
    images = np.random.default_rng(1).uniform(size=(16, *model.input_shape[1:]))
    images = images.astype(np.float32)
    scores = [np.asarray(m(images, training=False)) for m in (silenced, pruned, model)]
    assert np.abs(scores[0] - scores[2]).max() > 1e-4, "the channels do not matter"
    return float(np.abs(scores[0] - scores[1]).max() / max(1.0, np.abs(scores[0]).max()))


def chain(*layers: Any, classes: int = 4) -> Any:
    """A convolution, the given layers, and a linear output."""
    image = keras.Input(SHAPE)
    hidden = L.Conv2D(6, 3, name="conv")(image)
    for layer in layers:
        hidden = layer(hidden)
    return keras.Model(image, L.Dense(classes, name="scores")(L.Flatten()(hidden)))


BETWEEN = {
    "relu": lambda: [L.Activation("relu")],
    "relu layer": lambda: [L.ReLU(max_value=6.0)],
    "leaky": lambda: [L.LeakyReLU()],
    "elu": lambda: [L.ELU()],
    "identity": lambda: [L.ReLU(), L.Identity()],
    "batch normalization": lambda: [L.BatchNormalization(), L.ReLU()],
    "normalization last": lambda: [L.ReLU(), L.BatchNormalization()],
    "dropout": lambda: [L.ReLU(), L.Dropout(0.5), L.SpatialDropout2D(0.5), L.GaussianNoise(0.1)],
    "max pooling": lambda: [L.ReLU(), L.MaxPooling2D()],
    "average pooling": lambda: [L.ReLU(), L.AveragePooling2D(2)],
    "global average": lambda: [L.ReLU(), L.GlobalAveragePooling2D()],
    "global maximum": lambda: [L.ReLU(), L.GlobalMaxPooling2D()],
    "padding": lambda: [L.ReLU(), L.ZeroPadding2D(), L.Cropping2D(1), L.UpSampling2D()],
    "convolution": lambda: [L.ReLU(), L.Conv2D(5, 3, padding="same", strides=2)],
    "permutation": lambda: [L.ReLU(), L.Permute((2, 1, 3))],
    "dense": lambda: [L.ReLU(), L.Flatten(), L.Dense(7, activation="relu")],
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_every_supported_layer(kind: str) -> None:
    assert difference(settled(chain(*BETWEEN[kind]())), "conv", [0, 3, 4]) <= 1e-6


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("gtsrb_cnn", ("conv_1", "conv_6")),
        ("deepid", ("conv_1", "conv_2", "conv_3", "conv_4")),
        ("badnet_mnist", ("conv_1", "conv_2", "fc_1")),
    ],
)
def test_the_architectures(architecture: str, layers: tuple[str, ...]) -> None:
    model = settled(builder(architecture)())
    for layer in layers:
        assert difference(model, layer, [1, 2]) <= 1e-6


def test_branches_that_are_concatenated() -> None:
    image = keras.Input(SHAPE)
    stem = L.Conv2D(6, 3, padding="same", activation="relu", name="stem")(image)
    side = L.Conv2D(5, 1, activation="relu", name="side")(stem)
    joined = L.GlobalAveragePooling2D()(L.Concatenate()([stem, side]))
    model = settled(keras.Model(image, L.Dense(3)(joined)))
    for layer in ("stem", "side"):
        assert difference(model, layer, [0, 2]) <= 1e-6


def test_a_layer_of_a_nested_model() -> None:
    inner = keras.Sequential(
        [keras.Input(SHAPE), L.Conv2D(6, 3, activation="relu", name="conv"), L.MaxPooling2D()],
        name="backbone",
    )
    model = settled(keras.Sequential([keras.Input(SHAPE), inner, L.Flatten(), L.Dense(3)]))
    assert difference(model, "backbone/conv", [5]) <= 1e-6


def test_nothing_to_delete_is_a_copy() -> None:
    model = settled(chain(L.ReLU()))
    pruned = delete_channels(model, "conv", [])
    assert pruned.count_params() == model.count_params()
    assert pruned is not model


def residual() -> Any:
    image = keras.Input(SHAPE)
    hidden = L.Conv2D(6, 3, padding="same", activation="relu", name="conv")(image)
    other = L.Conv2D(6, 3, padding="same", activation="relu")(hidden)
    return keras.Model(image, L.Dense(3)(L.Flatten()(L.Add()([hidden, other]))))


UNSUPPORTED = {
    "add": (residual, "kerassurgeon cannot delete channels of 'conv' in this network"),
    "depthwise": (lambda: chain(L.ReLU(), L.DepthwiseConv2D(3)), "cannot delete channels"),
    "prelu": (lambda: chain(L.PReLU()), "cannot delete channels of 'conv'"),
    "operation": (lambda: chain(lambda x: keras.ops.tanh(x)), "cannot delete channels"),
    "not zero": (lambda: chain(L.Activation("sigmoid")), "is not zero after its activation"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_unsupported_is_one_sentence_and_can_be_silenced(kind: str) -> None:
    make, message = UNSUPPORTED[kind]
    model = settled(make())
    with pytest.raises(Unsupported, match=message) as error:
        delete_channels(model, "conv", [0])
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    silenced = graph.copy(model)
    channels.silence(silenced, "conv", [0])
    assert np.isfinite(np.asarray(silenced(np.ones((1, *SHAPE), np.float32)))).all()


def test_bad_input_is_one_sentence() -> None:
    model = settled(chain(L.ReLU()))
    with pytest.raises(ValueError, match="All 6 channels of 'conv' were chosen: keep at least one"):
        delete_channels(model, "conv", range(6))
    with pytest.raises(ValueError, match="'conv' has the channels 0 to 5"):
        delete_channels(model, "conv", [6])
    with pytest.raises(ValueError, match="Conv2D and Dense layers can be deleted; 'flatten"):
        delete_channels(model, next(x.name for x in model.layers if "flatten" in x.name), [0])
    anysize = keras.Input((None, None, 3))
    hidden = L.Conv2D(4, 3, activation="relu", name="conv")(anysize)
    free = keras.Model(anysize, L.Dense(2)(L.GlobalAveragePooling2D()(hidden)))
    with pytest.raises(Unsupported, match="an input of a fixed size"):
        delete_channels(free, "conv", [0])


def test_it_leaves_keras_and_logging_as_they_were() -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    delete_channels(settled(chain(L.ReLU(), L.BatchNormalization())), "conv", [0])
    assert (root.level, root.handlers) == before
    for name in ("inbound_nodes", "outbound_nodes", "input_shape", "output_shape"):
        assert not hasattr(L.Layer, name)
    assert L.ReLU.__name__ == "ReLU"
    assert type(L.BatchNormalization().axis) is int
    assert L.Dense.from_config(L.Dense(3).get_config()).units == 3


def test_a_wrong_result_is_noticed(monkeypatch) -> None:
    model = settled(chain(L.ReLU()))
    wrong = settled(graph.copy(model), seed=5)
    monkeypatch.setattr(surgery, "_operated", lambda work, layer: wrong)
    with pytest.raises(Unsupported, match="does not compute the same"):
        delete_channels(model, "conv", [0])


def test_without_kerassurgeon_the_way_to_install_it_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kerassurgeon.surgeon", None)
    with pytest.raises(
        Unsupported, match="install kerassurgeon==0.2.0 with pip and its option no-deps"
    ):
        delete_channels(settled(chain(L.ReLU())), "conv", [0])
