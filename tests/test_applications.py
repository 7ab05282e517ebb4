"""Models of `keras.applications`, saved whole, alone or nested, open with the same answers."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_backdoor._internals.backend import keras
from keras_backdoor.loading import load_model

A, L = keras.applications, keras.layers
QUICK = ["MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2"]
SLOW = [
    "MobileNetV3Large", "EfficientNetB0", "ResNet50", "DenseNet121", "NASNetMobile", "Xception",
    "InceptionV3", "InceptionResNetV2", "ConvNeXtTiny", "VGG16", "VGG19", "ResNet101",
]  # fmt: skip


def check(model: keras.Model, path: Path) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    given = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype(np.float32)
    loaded = load_model(path).model
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-4)


def build(name: str, **options: object) -> keras.Model:
    side = 96 if name not in ("VGG16", "VGG19") else 48
    return getattr(A, name)(weights=None, input_shape=(side, side, 3), **options)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.filterwarnings("ignore")
def test_it_opens(name: str, suffix: str, tmp_path: Path) -> None:
    check(build(name, classes=7), tmp_path / f"m{suffix}")


@pytest.mark.verify
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", SLOW)
@pytest.mark.filterwarnings("ignore")
def test_the_others_open(name: str, suffix: str, tmp_path: Path) -> None:
    check(build(name, classes=7), tmp_path / f"m{suffix}")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.filterwarnings("ignore")
def test_a_transfer_learned_one_opens(suffix: str, tmp_path: Path) -> None:
    base = build("MobileNetV2", include_top=False, pooling="avg")
    base.trainable = False
    for layer in base.layers[-8:]:
        layer.trainable = not isinstance(layer, L.BatchNormalization)
    image = keras.Input((96, 96, 3))
    augmented = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)])(image)
    x = base(A.mobilenet_v2.preprocess_input(augmented), training=False)
    x = L.Dropout(0.3)(L.BatchNormalization()(x))
    model = keras.Model(image, L.Dense(5, activation="softmax")(x))
    check(model, tmp_path / f"m{suffix}")
    loaded = load_model(tmp_path / f"m{suffix}").model
    assert [w.path.split("/")[-1] for w in loaded.trainable_weights] == [
        w.path.split("/")[-1] for w in model.trainable_weights
    ]


WRITTEN = """
import sys
import numpy as np
import tf_keras as keras
name, folder, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=7)
given = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype("float32")
for suffix in (".h5", ".keras"):
    model.save(f"{folder}/m{suffix}")
np.save(f"{folder}/answers.npy", model(given, training=False))
"""


@pytest.mark.verify
@pytest.mark.parametrize("name", [*QUICK, *SLOW, "EfficientNetV2S", "RegNetX002", "ResNetRS50"])
@pytest.mark.filterwarnings("ignore")
def test_as_keras_2_writes_them(name: str, tmp_path: Path) -> None:
    """Needs the package tf_keras, which is Keras 2 beside Keras 3: pip install tf_keras."""
    pytest.importorskip("tf_keras")
    side = 96 if name not in ("VGG16", "VGG19") else 48
    program = [sys.executable, "-c", WRITTEN, name, str(tmp_path), str(side)]
    subprocess.run(program, check=True, capture_output=True)
    given = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    expected = np.load(tmp_path / "answers.npy")
    for suffix in (".h5", ".keras"):
        loaded = load_model(tmp_path / f"m{suffix}").model
        np.testing.assert_allclose(loaded(given, training=False), expected, atol=1e-5)
