"""Contract of all architectures, and the published sizes."""

import numpy as np
import pytest

from keras_backdoor._internals import discovery
from keras_backdoor._internals.backend import keras
from keras_backdoor.architectures import (
    GTSRBCNN,
    BadNetMNIST,
    BorjiMNIST,
    DeepID,
    ResNet8,
    VGG16Face,
)
from keras_backdoor.network.classifier import Classifier

SMALL = [k for k in discovery.keys("architectures") if k != "vgg16_face"]


@pytest.mark.parametrize("key", SMALL)
def test_builds_with_any_number_of_classes(key: str) -> None:
    module, build = discovery.module("architectures", key), discovery.load("architectures", key)
    for classes in (module.CLASSES, 3):
        classifier = Classifier(build(classes), preprocess=(0, 1))
        assert classifier.classes == classes
        assert classifier.image_shape == module.INPUT_SHAPE
        scores = classifier.model(np.zeros((2, *module.INPUT_SHAPE), np.float32))
        assert scores.shape == (2, classes)


def shapes(model: keras.Model) -> list[tuple]:
    kinds = ("Conv2D", "Dense")
    return [tuple(x.kernel.shape) for x in model.layers if type(x).__name__ in kinds]


def test_badnet_mnist_is_the_notebook_s() -> None:
    assert BadNetMNIST().count_params() == 30_330
    assert BadNetMNIST().get_layer("conv_1").count_params() == 416
    assert BadNetMNIST().get_layer("fc_1").count_params() == 25_104


def test_borji_mnist_is_figure_23() -> None:
    assert shapes(BorjiMNIST()) == [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)]
    assert Classifier(BorjiMNIST()).output == "logits"


def test_gtsrb_cnn_is_table_3_1() -> None:
    channels = [s[-1] for s in shapes(GTSRBCNN())]
    assert channels == [32, 32, 64, 64, 128, 128, 512, 43]
    rates = [x.rate for x in GTSRBCNN().layers if type(x).__name__ == "Dropout"]
    assert rates == [0.2, 0.2, 0.2, 0.5]
    paddings = [x.padding for x in GTSRBCNN().layers if type(x).__name__ == "Conv2D"]
    assert paddings == ["same", "valid"] * 3
    assert GTSRBCNN().count_params() == 571_723


def test_resnet_8_has_three_blocks_and_batch_normalization() -> None:
    network = ResNet8(10)
    convolutions = [s for s in shapes(network) if len(s) == 4 and s[0] == 3]
    assert [s[-1] for s in convolutions] == [16, 16, 16, 32, 32, 64, 64]
    norms = [x for x in network.layers if type(x).__name__ == "BatchNormalization"]
    assert len(norms) == 9
    assert network.get_layer("pool").output.shape == (None, 64)
    assert network.count_params() == 78_714


def test_deepid_is_table_3_2() -> None:
    assert sorted(shapes(DeepID())) == sorted(
        [(4, 4, 3, 20), (3, 3, 20, 40), (3, 3, 40, 60), (1200, 160), (2, 2, 60, 80), (960, 160)]
        + [(160, 1283)]
    )


def test_vgg16_face_is_table_3_3_with_a_frozen_trunk(tmp_path, monkeypatch) -> None:
    # The real sizes need 0.5 GB; the first dense layer is made small for the test.
    dense = keras.layers.Dense
    monkeypatch.setattr(
        keras.layers, "Dense", lambda n, **k: dense(n if n < 4096 else 8, **k), raising=True
    )
    model = VGG16Face(5)
    names = [x.name for x in model.layers if type(x).__name__ == "Conv2D"]
    assert len(names) == 13
    assert [model.get_layer(n).filters for n in names] == (
        [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    )
    assert [x.name for x in model.layers if x.trainable_weights] == ["fc8"]
    model.get_layer("fc6").set_weights(
        [np.full_like(w, 0.25) for w in model.get_layer("fc6").get_weights()]
    )
    model.save_weights(tmp_path / "w.weights.h5")
    again = VGG16Face(7, weights=tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(again.get_layer("fc6").get_weights()[0], 0.25)
