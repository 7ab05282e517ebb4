"""Old and new files open with the same answers; what is hostile or broken is refused."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_activations import MODELS, SHAPE, images, randomise

from keras_backdoor import bundled
from keras_backdoor._internals.backend import keras
from keras_backdoor._safe import h5
from keras_backdoor.architectures import BadNetMNIST
from keras_backdoor.loading import load_model, model_weights
from keras_backdoor.loading.inspection import inspect_model
from keras_backdoor.network.classifier import Classifier

L = keras.layers


def save(model: keras.Model, path: Path) -> Path:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    return path


def agree(path: Path, model: keras.Model) -> None:
    loaded = load_model(path, preprocess=(0, 1)).model
    shape = model.inputs[0].shape[1:]
    given = images(5, tuple(shape))
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_own_files_open_with_the_same_answers(kind: str, suffix: str, tmp_path: Path) -> None:
    model = randomise(MODELS[kind]())
    agree(save(model, tmp_path / f"m{suffix}"), model)


def rich() -> keras.Model:
    """Most of the layers on the list in one model."""
    image = keras.Input((16, 16, 3), name="image")
    x = L.Rescaling(1 / 255)(image)
    x = L.ZeroPadding2D(((1, 0), (0, 1)))(x)
    x = L.SeparableConv2D(8, 3, activation="swish", padding="same", depth_multiplier=2)(x)
    x = L.LeakyReLU(negative_slope=0.2)(L.BatchNormalization(momentum=0.9)(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="gelu")(x)
    x = L.Concatenate()([x, L.ReLU(max_value=6.0)(y)])
    x = L.GroupNormalization(groups=4)(x)
    x = L.PReLU(shared_axes=[1, 2])(L.AveragePooling2D(2)(x))
    x = L.UpSampling2D(2)(L.Cropping2D(1)(L.Conv2DTranspose(6, 3)(x)))
    x = L.SpatialDropout2D(0.1)(L.LayerNormalization()(x))
    a, b = L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(x)
    x = L.Multiply()([L.Average()([a, b]), L.Maximum()([a, b])])
    x = L.Dense(6, activation="relu", kernel_regularizer="l2", kernel_initializer="he_normal")(x)
    x = L.Softmax()(L.Dense(4)(L.Reshape((6,))(x)))
    return keras.Model(image, x)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_the_layers_on_the_list_open(suffix: str, tmp_path: Path) -> None:
    model = randomise(rich(), seed=3)
    agree(save(model, tmp_path / f"m{suffix}"), model)
    dense = next(
        x for x in load_model(tmp_path / f"m{suffix}").model.layers if isinstance(x, L.Dense)
    )
    assert dense.kernel_regularizer.l2 == pytest.approx(0.01)
    assert type(dense.kernel_initializer).__name__ == "HeNormal"


def test_shared_layers_and_frozen_ones(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    conv = L.Conv2D(3, 3, padding="same", name="shared")
    x = conv(conv(image))
    model = keras.Model(image, L.Dense(3)(L.Flatten()(x)))
    conv.trainable = False
    for suffix in (".h5", ".keras"):
        agree(save(randomise(model), tmp_path / f"m{suffix}"), model)
        assert not load_model(tmp_path / f"m{suffix}").model.get_layer("shared").trainable


def rewrite(path: Path, change, attribute: str = "model_config") -> Path:
    with h5py.File(path, "r+") as file:
        content = json.loads(file.attrs[attribute])
        file.attrs[attribute] = json.dumps(change(content) or content)
    return path


def to_keras_2(config: dict) -> dict:
    """The configuration of a Sequential as Keras 2.1 and 2.2 wrote it."""
    layers = []
    for item in config["config"]["layers"]:
        if item["class_name"] == "InputLayer":
            shape = item["config"].get("batch_shape")
            continue
        inner = {k: v for k, v in item["config"].items() if k != "dtype"}
        for key, value in list(inner.items()):
            if isinstance(value, dict) and "class_name" in value:
                inner[key] = {k: value[k] for k in ("class_name", "config")}
        inner["quantization_config"] = None
        layers.append({"class_name": item["class_name"], "config": inner})
    layers[0]["config"]["batch_input_shape"] = shape
    return {"class_name": "Sequential", "config": layers}


def test_a_sequential_of_keras_2_1(tmp_path: Path) -> None:
    model = randomise(MODELS["sequential"]())
    path = rewrite(save(model, tmp_path / "m.h5"), to_keras_2)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = b"2.1.6"
        config = json.loads(file.attrs["model_config"])
        assert isinstance(config["config"], list)
    agree(path, model)
    assert inspect_model(path).keras_version == "2.1.6"


def test_a_sequential_of_keras_2_3(tmp_path: Path) -> None:
    model = randomise(MODELS["sequential"]())

    def change(config: dict) -> dict:
        old = to_keras_2(config)
        return {"class_name": "Sequential", "config": {"name": "s", "layers": old["config"]}}

    agree(rewrite(save(model, tmp_path / "m.h5"), change), model)


def old_functional(config: dict) -> dict:
    """Calls as Keras 2 wrote them: [[name, node, tensor, {}], …]."""
    for item in config["config"]["layers"]:
        nodes = []
        for node in item["inbound_nodes"]:
            found: list = []

            def collect(value, found=found) -> None:
                if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
                    found.append([*value["config"]["keras_history"], {}])
                elif isinstance(value, list):
                    for part in value:
                        collect(part)

            collect(node["args"])
            nodes.append(found)
        item["inbound_nodes"] = nodes
        if "batch_shape" in item["config"]:
            item["config"]["batch_input_shape"] = item["config"].pop("batch_shape")
    for key in ("input_layers", "output_layers"):
        ends = config["config"][key]
        config["config"][key] = [ends] if isinstance(ends[0], str) else ends
    config["class_name"] = "Model"
    return config


def test_a_functional_model_of_keras_2(tmp_path: Path) -> None:
    model = randomise(MODELS["residual"]())
    agree(rewrite(save(model, tmp_path / "m.h5"), old_functional), model)


def test_a_keras_file_of_keras_2_12(tmp_path: Path) -> None:
    model = randomise(MODELS["residual"]())
    path = save(model, tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    config = old_functional(json.loads(members["config.json"]))
    config["class_name"] = "Functional"
    members["config.json"] = json.dumps(config).encode()
    members["metadata.json"] = b'{"keras_version": "2.12.0"}'
    (tmp_path / "w.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    members["model.weights.h5"] = (tmp_path / "w.h5").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    agree(path, model)
    assert inspect_model(path).keras_version == "2.12.0"


def test_settings_of_older_keras(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.LeakyReLU(negative_slope=0.07, name="leaky"),
            L.Flatten(),
            L.Dense(2),
        ]
    )

    def old(config: dict) -> None:
        settings = config["config"]["layers"][1]["config"]
        settings["alpha"] = settings.pop("negative_slope")
        settings["mystery"] = 7
        settings["fused"] = True

    path = rewrite(save(randomise(model), tmp_path / "m.h5"), old)
    loaded = load_model(path, preprocess=(-1, 1)).model
    given = images(5) - 0.5
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-5)
    warnings = [text for severity, text in inspect_model(path).findings if severity == "warning"]
    assert any("leaky.mystery" in text and "fused" not in text for text in warnings)

    def renormalised(config: dict) -> None:
        config["config"]["layers"][1]["config"]["renorm"] = True

    with pytest.raises(ValueError, match="batch renormalization"):
        load_model(rewrite(path, renormalised))


def test_weights_only_files_need_an_architecture(tmp_path: Path) -> None:
    model = randomise(BadNetMNIST(), seed=5)
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(bundled.path("models/mnist_badnet.h5")) as whole:
        with h5py.File(tmp_path / "old.h5", "w") as file:
            for key in whole["model_weights"]:
                whole.copy(whole["model_weights"][key], file, key)
            for key, value in whole["model_weights"].attrs.items():
                file.attrs[key] = value
    loaded = load_model(tmp_path / "m.weights.h5", architecture="badnet-mnist")
    given = images(4, (28, 28, 1))
    np.testing.assert_allclose(loaded.model(given), model(given), atol=1e-6)
    badnet = load_model(bundled.path("models/mnist_badnet.h5"))
    loaded = load_model(tmp_path / "old.h5", architecture="borji_mnist")
    np.testing.assert_allclose(loaded.model(given), badnet.model(given), atol=1e-5)
    for path in ("m.weights.h5", "old.h5"):
        with pytest.raises(ValueError, match="contains weights only: pass architecture="):
            load_model(tmp_path / path)
        with pytest.raises(ValueError, match="do not fit|missing|has weights of shapes"):
            load_model(tmp_path / path, architecture="gtsrb-cnn")
    with pytest.raises(ValueError, match="has weights of shapes"):
        load_model(tmp_path / "old.h5", architecture="borji-mnist", classes=7)
    with pytest.raises(ValueError, match="There is no 'nope' among the architectures"):
        load_model(tmp_path / "old.h5", architecture="nope")


def test_the_card_tells_the_range_only_for_its_own_file(tmp_path: Path) -> None:
    source = bundled.path("models/mnist_badnet.h5")
    assert load_model(source).preprocess.range == (0, 1)
    (tmp_path / "m.h5").write_bytes(source.read_bytes())
    card = json.loads(source.with_suffix(".json").read_text())
    (tmp_path / "m.json").write_text(json.dumps(card))
    assert load_model(tmp_path / "m.h5").preprocess.range == (0, 1)
    (tmp_path / "m.json").write_text(json.dumps({**card, "sha256": "0" * 64}))
    assert load_model(tmp_path / "m.h5").preprocess is None
    (tmp_path / "m.json").write_text("not json")
    assert load_model(tmp_path / "m.h5").preprocess is None
    assert load_model(tmp_path / "m.h5", preprocess=(0, 255)).preprocess.range == (0, 255)


class TestRefused:
    """Sentences for files that are broken; the hostile ones are in hostile.py."""

    def check(self, path: Path, message: str, verdict: str = "hostile") -> None:
        with pytest.raises(ValueError, match=message):
            load_model(path)
        found = inspect_model(path)
        assert found.verdict == verdict
        assert found.findings[0][0] == verdict

    @pytest.fixture
    def h5(self, tmp_path: Path) -> Path:
        return save(randomise(MODELS["sequential"]()), tmp_path / "m.h5")

    def test_broken_files(self, h5: Path, tmp_path: Path) -> None:
        whole = h5.read_bytes()
        (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
        self.check(tmp_path / "cut.h5", "is damaged: .*truncated", "unreadable")
        (tmp_path / "text.h5").write_text("hello")
        self.check(tmp_path / "text.h5", "not an HDF5 file", "unreadable")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["x"] = np.zeros(3)
        self.check(tmp_path / "other.h5", "without a Keras model", "unreadable")
        (tmp_path / "z.keras").write_bytes(b"PK\x05\x06" + bytes(18))
        self.check(tmp_path / "z.keras", "without a Keras model", "unreadable")
        with h5py.File(h5, "r+") as file:
            file.attrs["model_config"] = "{"
        self.check(h5, "is not JSON", "unreadable")

    @pytest.mark.parametrize(
        "config",
        [
            "[]", "{}", '{"class_name": "Sequential"}', '{"class_name": "Functional", "config": {}}',
            '{"class_name": "Sequential", "config": {"layers": [7]}}',
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "Dense"}]}}',
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "InputLayer", '
            '"name": "a", "config": {"batch_shape": [null, 4, 4, 1]}, "inbound_nodes": []}]}}',
        ],
    )  # fmt: skip
    def test_configurations_that_make_no_sense(self, h5: Path, config: str) -> None:
        with h5py.File(h5, "r+") as file:
            file.attrs["model_config"] = config
        with pytest.raises(ValueError, match="m.h5"):
            load_model(h5)
        assert inspect_model(h5).verdict == "unreadable"

    def test_other_formats(self, tmp_path: Path) -> None:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
        self.check(tmp_path / "saved", "is a SavedModel", "unreadable")
        (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
        self.check(tmp_path / "m.tflite", "is a TFLite file", "unreadable")
        with pytest.raises(ValueError, match="There is no model file"):
            load_model(tmp_path / "none.h5")

    def test_missing_weights(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            del file["model_weights/out"]
        with pytest.raises(ValueError, match="m.h5"):
            load_model(h5)


def test_what_is_loaded_is_ours(tmp_path: Path) -> None:
    path = save(randomise(MODELS["sequential"]()), tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps({"loss": {"class_name": "os.system"}})
    loaded = load_model(path)
    assert isinstance(loaded, Classifier)
    assert not loaded.model.compiled
    assert inspect_model(path).findings[0][1] == "Unused parts of the file: training_config."


def test_a_malformed_card_is_one_sentence(badnet, tmp_path: Path) -> None:
    source = Path(badnet.source)
    (tmp_path / "m.h5").write_bytes(source.read_bytes())
    card = json.loads(source.with_suffix(".json").read_text())
    for changes, message in (
        ({"preprocess": "ab"}, "m.json: A preprocessing is written 0:1"),
        ({"preprocess": [1, 0]}, "black pixel must be below"),
        ({"reject_class": "x"}, "reject_class must be a class number"),
    ):
        (tmp_path / "m.json").write_text(json.dumps({**card, **changes}))
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "m.h5")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_ordinary_models_open(suffix: str, tmp_path: Path) -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    image = keras.Input((32, 32, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(image)
    x = L.Conv2D(4, 3, activation=L.LeakyReLU(negative_slope=0.3),
                 kernel_initializer=keras.initializers.HeNormal(seed=20240101))(x / 2.0 + 1)  # fmt: skip
    x = L.Dropout(0.2, seed=20240101)(L.Identity()(L.Resizing(8, 8)(x)))
    model = keras.Model(image, L.Dense(3, activation="softmax")(L.Flatten()(x - 0.5)))
    model.save(tmp_path / f"m{suffix}")
    given = 255 * images(4, (32, 32, 3))
    loaded = load_model(tmp_path / f"m{suffix}")
    np.testing.assert_allclose(loaded.model(given), model(given), atol=1e-5)
    lstm = keras.Sequential([keras.Input((4, 4)), L.LSTM(3)])
    lstm.save(tmp_path / f"l{suffix}")
    with pytest.raises(ValueError, match="'LSTM', which is not supported yet"):
        load_model(tmp_path / f"l{suffix}")


def test_weights_are_matched_by_order_where_no_layer_name_is_shared(tmp_path):
    def dense(*names):
        layers = [keras.layers.Dense(3, name=name) for name in names]
        return keras.Sequential([keras.Input((3,)), *layers])

    stored, model = dense("a", "b"), dense("c", "d")
    stored.save(tmp_path / "stored.h5")
    with h5.checked(tmp_path / "stored.h5", "stored.h5") as file:
        model_weights.fill_any(model, file, "stored.h5")
    for expected, found in zip(stored.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
